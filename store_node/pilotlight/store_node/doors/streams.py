"""Tokens on their way from a worker to the reader of a request."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from pilotlight.store_node.engines.engine import Emission
from pilotlight.store_node.protocol import FinishReason, RequestId, TokenBatch, TokenLogprobs
from pilotlight.store_node.protocol.refusals import Refusal

MOST_WAITING_TOKENS = 4_096
"""Beyond what transports buffer. A reader that is further behind will not catch up."""


class StreamRefused(Exception):
    """A stream ended before its request had finished."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.message)
        self.refusal = refusal


class TokenStream:
    """One attempt's tokens: what waits is joined, so the reader always gets all there is at once.

    Used from the event loop only, by one reader.
    """

    def __init__(
        self, request_id: RequestId, attempt: int, *, on_overflow: Callable[[], None]
    ) -> None:
        self.request_id = request_id
        self.attempt = attempt
        self._on_overflow = on_overflow
        self._waiting: list[Emission] = []
        self._n_waiting = 0
        self._refusal: Refusal | None = None
        self._changed = asyncio.Event()

    def put(self, emission: Emission) -> None:
        """Add tokens; too many that wait are reported once for each addition."""
        self._waiting.append(emission)
        self._n_waiting += len(emission.token_ids)
        self._changed.set()
        if self._n_waiting > MOST_WAITING_TOKENS:
            self._on_overflow()

    def end(self, refusal: Refusal) -> None:
        """End the stream after what waits."""
        self._refusal = refusal
        self._changed.set()

    async def next_batch(self) -> TokenBatch:
        """Wait for tokens and return all that wait, in order.

        The batch with a finish reason is the last.

        Raises:
            StreamRefused: the stream has ended otherwise.
        """
        while not self._waiting:
            if self._refusal is not None:
                raise StreamRefused(self._refusal)
            self._changed.clear()
            await self._changed.wait()
        waiting, self._waiting, self._n_waiting = self._waiting, [], 0
        return _joined(waiting)


def _joined(emissions: list[Emission]) -> TokenBatch:
    first = emissions[0]
    token_ids: list[int] = []
    logprobs: list[TokenLogprobs] = []
    finish_reason: FinishReason | None = None
    prefill_seconds = 0.0
    for emission in emissions:
        token_ids += emission.token_ids
        logprobs += emission.logprobs
        finish_reason = emission.finish_reason or finish_reason
        prefill_seconds = prefill_seconds or emission.prefill_seconds
    return TokenBatch(
        request_id=first.request_id,
        attempt=first.attempt,
        seq=first.seq,
        token_ids=tuple(token_ids),
        logprobs=tuple(logprobs),
        finish_reason=finish_reason,
        prefill_seconds=prefill_seconds,
    )
