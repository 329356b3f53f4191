"""The step loop: which request computes what next."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

import torch

from pilotlight.store_node.engines.engine import (
    Emission,
    Extension,
    Offer,
    Work,
    WorkFailure,
    WorkRefused,
)
from pilotlight.store_node.engines.progress import Progress
from pilotlight.store_node.engines.room import Room
from pilotlight.store_node.engines.transformers.decoder import Decoder, Part
from pilotlight.store_node.engines.transformers.penalties import Penalties
from pilotlight.store_node.engines.transformers.sampling import choose_token, log_probabilities
from pilotlight.store_node.errors import InvalidLogits
from pilotlight.store_node.protocol.values import RequestId, TokenLogprobs

S = TypeVar("S")

# Where no stream waits for them, prompts are computed in steps so much longer, as
# fast as in one; a cancel, or a new request, waits for one of them at most.
_ALONE = 4


class _Running(Generic[S]):
    """One request, from its admission to its end."""

    def __init__(self, progress: Progress, sequence: S, *, now: float) -> None:
        self.progress = progress
        self.sequence = sequence
        self.penalties = Penalties(progress)
        self.admitted_at = now
        self.n_computed = 0
        """Of its tokens, how many the model has seen."""
        self.has_emitted = False
        self.owes_notice = progress.is_held
        """Whether it is to be told when all that is given is computed."""

    @property
    def n_due(self) -> int:
        """Tokens to compute now; the last one given waits until it is known what follows."""
        ids, is_held = self.progress.ids, self.progress.is_held
        return len(ids) - self.n_computed - (1 if is_held else 0)

    @property
    def is_decoding(self) -> bool:
        """Whether one token is due, and another one comes of it."""
        return self.n_due == 1 and not self.progress.is_held

    def begin_again(self, sequence: S) -> None:
        """Forget what is computed."""
        self.sequence = sequence
        self.n_computed = 0

    def part(self, n_tokens: int) -> Part[S]:
        """Return its next tokens, as many as that."""
        progress = self.progress
        end = self.n_computed + n_tokens
        return Part(
            self.sequence,
            progress.ids[self.n_computed : end],
            wants_logits=end == len(progress.ids) and not progress.is_held,
        )


class StepLoop(Generic[S]):
    """Continuous batching: one step computes a token of each request that decodes,
    and of those that are not as far at most `prefill_chunk` tokens together.

    So nobody's stream waits for more than a chunk of somebody's prompt. Prompts
    are computed in the order in which they came. A resumed request is one whose
    prompt is longer: by the tokens of earlier attempts. A token depends on the
    tokens before it, on the request's sampling and on its position, and on
    nothing that lives in this process.
    """

    def __init__(
        self,
        decoder: Decoder[S],
        offer: Offer,
        *,
        vocabulary: int,
        prefill_chunk: int | None,
        clock: Callable[[], float],
    ) -> None:
        """Begin without requests; `prefill_chunk` None says that prompts can't be cut."""
        self._decoder = decoder
        self._prefill_chunk = prefill_chunk
        self._clock = clock
        self._room = Room(offer, vocabulary=vocabulary)
        self._running: dict[RequestId, _Running[S]] = {}

    @property
    def is_busy(self) -> bool:
        """True while a step has something to do."""
        return any(
            running.n_due > 0 or running.owes_notice or running.progress.finish_reason is not None
            for running in self._running.values()
        )

    def admit(self, work: Work) -> None:
        """Take a request, or raise WorkRefused."""
        progress = self._room.admit(work)
        try:
            sequence = self._decoder.begin(self._room.tokens_of(work.request_id))
        except MemoryError as error:
            self._room.release(work.request_id)
            raise WorkRefused("full" if self._running else "too_long", str(error)) from error
        self._running[work.request_id] = _Running(progress, sequence, now=self._clock())

    def extend(self, extension: Extension) -> None:
        """Give a held request more tokens, or raise WorkRefused."""
        running = self._running.get(extension.request_id)
        if running is None:
            raise WorkRefused("unknown", f"no request {extension.request_id!r} is here")
        running.progress.extend(extension)
        running.owes_notice = extension.is_held
        if self._prefill_chunk is None and extension.emitted_ids:
            # What is there can't be added to but by single tokens.
            running.begin_again(self._decoder.begin(self._room.tokens_of(extension.request_id)))

    def cancel(self, request_id: RequestId) -> None:
        """Forget a request, its keys and values included."""
        self._running.pop(request_id, None)
        self._room.release(request_id)

    def step(self) -> Sequence[Emission]:
        """Compute what is due; return new tokens, and what else is to be told."""
        emissions = [
            *(each for running in self._running.values() if (each := self._complete(running))),
            *self._advance(self._plan()),
        ]
        for emission in emissions:
            if emission.finish_reason is not None or emission.failure is not None:
                self.cancel(emission.request_id)
        return emissions

    def _plan(self) -> list[tuple[_Running[S], int]]:
        """Choose who computes how many tokens in this step."""
        chosen: list[tuple[_Running[S], int]] = []
        room = self._room_for_prompts()
        for running in self._running.values():
            if running.progress.finish_reason is not None:
                continue
            n_tokens = 1 if running.is_decoding else min(running.n_due, room)
            if n_tokens > 0:
                chosen.append((running, n_tokens))
                room -= 0 if running.is_decoding else n_tokens
        return chosen

    def _room_for_prompts(self) -> int:
        if self._prefill_chunk is None:
            return sys.maxsize
        is_anyone_decoding = any(running.is_decoding for running in self._running.values())
        return self._prefill_chunk * (1 if is_anyone_decoding else _ALONE)

    def _advance(self, chosen: Sequence[tuple[_Running[S], int]]) -> list[Emission]:
        if not chosen:
            return []
        parts = [running.part(n_tokens) for running, n_tokens in chosen]
        logits = self._decoder.extend(parts)
        rows = iter(logits)
        emissions: list[Emission] = []
        for (running, n_tokens), part in zip(chosen, parts, strict=True):
            running.n_computed += n_tokens
            if part.wants_logits:
                emissions.append(self._emit(running, next(rows)))
            elif running.owes_notice and running.n_due <= 0:
                emissions.append(_notice(running))
        return emissions

    def _emit(self, running: _Running[S], logits: torch.Tensor) -> Emission:
        progress, seq = running.progress, running.progress.seq
        try:
            token_id, logprobs = _choose(running, logits)
        except InvalidLogits as error:
            failure = WorkFailure(code=error.code, message=str(error))
            return _emission(running, failure=failure)
        progress.accept(token_id)
        is_first, running.has_emitted = not running.has_emitted, True
        return _emission(
            running,
            seq=seq,
            token_ids=(token_id,),
            logprobs=logprobs,
            prefill_seconds=self._clock() - running.admitted_at if is_first else 0.0,
        )

    def _complete(self, running: _Running[S]) -> Emission | None:
        """Say what no computing is needed for: an end that came with it, a notice."""
        if running.progress.finish_reason is not None:
            return _emission(running)
        if running.owes_notice and running.n_due <= 0:
            return _notice(running)
        return None


def _choose(running: _Running[S], logits: torch.Tensor) -> tuple[int, tuple[TokenLogprobs, ...]]:
    progress, sampling = running.progress, running.progress.work.sampling
    changed = running.penalties.apply(logits)
    # The maximum is NaN where any logit is.
    if not bool(logits.max().isfinite() & changed.max().isfinite()):
        raise InvalidLogits(progress.work.request_id, position=progress.position)
    token_id = choose_token(changed, sampling, position=progress.position)
    if sampling.logprobs is None:
        return token_id, ()
    # The model's own opinion, whatever was asked for.
    return token_id, (log_probabilities(logits, token_id, n_top=sampling.logprobs),)


def _notice(running: _Running[S]) -> Emission:
    running.owes_notice = False
    return _emission(running, is_prepared=True)


def _emission(
    running: _Running[S],
    *,
    seq: int | None = None,
    token_ids: tuple[int, ...] = (),
    logprobs: tuple[TokenLogprobs, ...] = (),
    prefill_seconds: float = 0.0,
    is_prepared: bool = False,
    failure: WorkFailure | None = None,
) -> Emission:
    progress = running.progress
    return Emission(
        request_id=progress.work.request_id,
        attempt=progress.attempt,
        seq=progress.seq if seq is None else seq,
        token_ids=token_ids,
        logprobs=logprobs,
        finish_reason=progress.finish_reason,
        prefill_seconds=prefill_seconds,
        is_prepared=is_prepared,
        failure=failure,
    )
