"""An engine's bookkeeping, for those that only want to say what the next token is."""

from __future__ import annotations

import abc
from collections.abc import Sequence
from pathlib import Path

from pilotlight.store_node.engines.clock import Clock, MonotonicClock
from pilotlight.store_node.engines.engine import (
    Emission,
    EngineSetup,
    Extension,
    Offer,
    Weights,
    Work,
    WorkFailure,
    WorkRefused,
)
from pilotlight.store_node.engines.progress import Progress
from pilotlight.store_node.engines.room import Room
from pilotlight.store_node.errors import InvalidLogits
from pilotlight.store_node.protocol.values import RequestId, TokenLogprobs


class TokenByToken(abc.ABC):
    """An engine that keeps nothing between tokens: a subclass says what the next one is.

    All else is done here: slots, KV memory as far as the offer states it, held
    attempts, ends, cancelling. Every step takes each request one token further. A
    held attempt is prepared as soon as it is there, since nothing can be computed
    ahead for it; an engine that can do so has caches, and is better off with
    the protocol itself.
    """

    vocabulary: int
    """Token ids lie below it; a subclass sets it, in `attach` at the latest."""
    setup: EngineSetup
    """What is known of the replica; there from `prepare` on."""

    def __init__(self, *, clock: Clock | None = None) -> None:
        self._clock: Clock = clock or MonotonicClock()
        self._running: dict[RequestId, _Attempt] = {}

    @classmethod
    @abc.abstractmethod
    def version(cls) -> str:
        """Return what computes: two equal versions compute equal tokens. Runs in the node."""

    @classmethod  # noqa: B027  # a subclass may leave it as it is
    def preload(cls, checkpoints: Sequence[Path]) -> None:
        """Make nothing ready."""

    @abc.abstractmethod
    def attach(self, weights: Weights) -> Offer:
        """Attach the weights and say what the replica can do. Called once, by `bind`."""

    @abc.abstractmethod
    def next_token(self, progress: Progress) -> tuple[int, TokenLogprobs | None]:
        """Return the token that follows `progress.ids`.

        It may depend on these, on `progress.work.sampling` and on nothing else. Log
        probabilities go with it where the sampling asks for them.

        Raises:
            InvalidLogits: there is none; it ends this request, and no other.
        """

    def prepare(self, setup: EngineSetup) -> None:
        """Keep the setup."""
        self.setup = setup

    def bind(self, weights: Weights) -> Offer:
        """Attach the weights."""
        offer = self.attach(weights)
        self._room = Room(offer, vocabulary=self.vocabulary)
        return offer

    def admit(self, work: Work) -> None:
        """Take a request if there is a slot and memory for it."""
        progress = self._room.admit(work)
        self._running[work.request_id] = _Attempt(progress, now=self._clock.now())

    def extend(self, extension: Extension) -> None:
        """Give a held attempt more tokens."""
        attempt = self._running.get(extension.request_id)
        if attempt is None:
            raise WorkRefused("unknown", f"no request {extension.request_id!r} is here")
        attempt.extend(extension)

    def cancel(self, request_id: RequestId) -> None:
        """Forget a request."""
        self._running.pop(request_id, None)
        self._room.release(request_id)

    def step(self) -> Sequence[Emission]:
        """Take every request one token further."""
        emissions = [self._advance(each) for each in self._running.values() if each.is_waiting]
        for emission in emissions:
            if emission.finish_reason is not None or emission.failure is not None:
                self.cancel(emission.request_id)
        return emissions

    @property
    def is_busy(self) -> bool:
        """True while a request waits for something."""
        return any(attempt.is_waiting for attempt in self._running.values())

    def _advance(self, attempt: _Attempt) -> Emission:
        progress = attempt.progress
        if progress.is_held or progress.finish_reason is not None:
            return attempt.notice()
        try:
            token_id, logprobs = self.next_token(progress)
        except InvalidLogits as error:
            return attempt.notice(failure=WorkFailure(code=error.code, message=str(error)))
        return attempt.accept(token_id, logprobs, now=self._clock.now())


class _Attempt:
    """One attempt, and what is still to be told of it."""

    def __init__(self, progress: Progress, *, now: float) -> None:
        self.progress = progress
        self._admitted_at = now
        self._has_emitted = False
        self._is_prepared = False

    @property
    def is_waiting(self) -> bool:
        return not (self.progress.is_held and self._is_prepared)

    def extend(self, extension: Extension) -> None:
        self.progress.extend(extension)
        self._is_prepared = False

    def accept(self, token_id: int, logprobs: TokenLogprobs | None, *, now: float) -> Emission:
        progress, seq = self.progress, self.progress.seq
        progress.accept(token_id)
        is_first, self._has_emitted = not self._has_emitted, True
        return Emission(
            request_id=progress.work.request_id,
            attempt=progress.attempt,
            seq=seq,
            token_ids=(token_id,),
            logprobs=() if logprobs is None else (logprobs,),
            finish_reason=progress.finish_reason,
            prefill_seconds=now - self._admitted_at if is_first else 0.0,
        )

    def notice(self, *, failure: WorkFailure | None = None) -> Emission:
        """Emit no token, but that the attempt is prepared, failed or at its end."""
        progress = self.progress
        self._is_prepared = progress.is_held
        return Emission(
            request_id=progress.work.request_id,
            attempt=progress.attempt,
            seq=progress.seq,
            token_ids=(),
            finish_reason=progress.finish_reason,
            is_prepared=progress.is_held,
            failure=failure,
        )
