"""Several answers to one request, side by side."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Collection, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import TypeVar

from pilotlight.scheduler.errors import RequestLost
from pilotlight.scheduler.gateway.backend import Inference
from pilotlight.scheduler.gateway.text.transcript import TextPiece, Transcript
from pilotlight.store_node.protocol import FinishReason, RequestId, TokenBatch

T = TypeVar("T")

_SEED_LIMIT = 1 << 64
"""Seeds are unsigned 64-bit numbers on the wire."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """One of a request's answers: what runs for it, and what becomes of its tokens."""

    inference: Inference
    transcript: Transcript

    async def pieces(
        self, batches: AsyncGenerator[TokenBatch, None]
    ) -> AsyncGenerator[TextPiece, None]:
        """Yield a piece for each batch; the last comes when nothing runs any more.

        Raises:
            RequestLost: somebody else has cancelled it.
        """
        last: TextPiece | None = None
        async with aclosing(batches):
            async for batch in batches:
                piece = self.transcript.add(batch)
                if piece.finish_reason is not None:
                    last = piece
                    break
                yield piece
        if last is None or last.finish_reason is FinishReason.CANCELLED:
            raise RequestLost(self.inference.asked_as, attempts=1, reason="it was cancelled")
        yield last


def choice_of(inference: Inference, index: int) -> Inference:
    """Return the request for one of several answers.

    The first is the request itself. Each other one has an id and a seed of its
    own, which follow from the request's.
    """
    if not index:
        return inference
    sampling = inference.sampling
    return replace(
        inference,
        request_id=RequestId(f"{inference.request_id}.{index}"),
        choice_of=inference.request_id,
        sampling=replace(sampling, seed=(sampling.seed + index) % _SEED_LIMIT),
    )


def interleaved(streams: Sequence[AsyncGenerator[T, None]]) -> AsyncGenerator[T, None]:
    """Return all that some streams yield, as it comes; closing it closes them.

    An error of one ends all. No stream is read ahead of the reader by more than
    one item.
    """
    return streams[0] if len(streams) == 1 else _interleaved(streams)


async def _interleaved(streams: Sequence[AsyncGenerator[T, None]]) -> AsyncGenerator[T, None]:
    awaited = {asyncio.ensure_future(anext(stream)): stream for stream in streams}
    try:
        while awaited:
            done, _ = await asyncio.wait(awaited, return_when=asyncio.FIRST_COMPLETED)
            # In the order of the streams, not in that of a set.
            for task in [task for task in awaited if task in done]:
                try:
                    item = task.result()
                except StopAsyncIteration:
                    del awaited[task]
                    continue
                stream = awaited.pop(task)
                yield item
                awaited[asyncio.ensure_future(anext(stream))] = stream
    finally:
        await _stop(awaited)
        for stream in streams:
            await stream.aclose()


async def _stop(tasks: Collection[asyncio.Future[T]]) -> None:
    """Cancel tasks and wait for them; their errors are told by another, or by nobody."""
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks)
    for task in tasks:
        if not task.cancelled():
            task.exception()
