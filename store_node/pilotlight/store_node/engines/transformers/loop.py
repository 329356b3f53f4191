"""The step loop: which request computes what next."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from pilotlight.store_node.engines.engine import Emission, Work, WorkRefused
from pilotlight.store_node.engines.progress import Progress
from pilotlight.store_node.engines.transformers.decoder import Decoder, SequenceCache
from pilotlight.store_node.engines.transformers.sampling import choose_token, log_probabilities
from pilotlight.store_node.errors import InvalidLogits
from pilotlight.store_node.protocol.values import RequestId, TokenLogprobs


class _Running:
    """One request, from its admission to its last token."""

    def __init__(self, progress: Progress, *, now: float) -> None:
        self.progress = progress
        self.admitted_at = now
        self.cache: SequenceCache | None = None
        """None until the prefill."""
        self.pending_ids: Sequence[int] = progress.ids
        """Tokens that the model has not seen yet."""


class StepLoop:
    """Runs one request at a time: its prefill in one step, then a token a step.

    The prefill of a resumed request takes its prompt and the tokens of earlier
    attempts together. A token depends on the tokens before it, on the request's
    sampling and on its position, and on nothing that lives in this process.
    """

    concurrency = 1

    def __init__(
        self,
        decoder: Decoder,
        *,
        context_tokens: int,
        vocabulary: int,
        clock: Callable[[], float],
    ) -> None:
        self._decoder = decoder
        self._context_tokens = context_tokens
        self._vocabulary = vocabulary
        self._clock = clock
        self._running: dict[RequestId, _Running] = {}

    @property
    def is_busy(self) -> bool:
        """True while requests run."""
        return bool(self._running)

    def admit(self, work: Work) -> None:
        """Take a request, or raise WorkRefused."""
        progress = Progress(work, context_tokens=self._context_tokens, vocabulary=self._vocabulary)
        if len(self._running) >= self.concurrency:
            raise WorkRefused("full", f"{len(self._running)} requests run, and no more can")
        self._running[work.request_id] = _Running(progress, now=self._clock())

    def cancel(self, request_id: RequestId) -> None:
        """Forget a request."""
        self._running.pop(request_id, None)

    def step(self) -> Sequence[Emission]:
        """Compute one token of each request; forget those that end."""
        emissions = [self._advance(running) for running in self._running.values()]
        for emission in emissions:
            if emission.finish_reason is not None:
                del self._running[emission.request_id]
        return emissions

    def _advance(self, running: _Running) -> Emission:
        progress = running.progress
        if progress.finish_reason is not None:
            return self._emission(running, seq=progress.seq)
        is_first = running.cache is None
        running.cache = running.cache or self._decoder.new_cache()
        logits = self._decoder.extend(running.cache, running.pending_ids)
        token_id, logprobs = _choose(logits, progress)
        seq = progress.seq
        progress.accept(token_id)
        running.pending_ids = (token_id,)
        return self._emission(
            running,
            seq=seq,
            token_ids=running.pending_ids,
            logprobs=logprobs,
            prefill_seconds=self._clock() - running.admitted_at if is_first else 0.0,
        )

    def _emission(
        self,
        running: _Running,
        *,
        seq: int,
        token_ids: Sequence[int] = (),
        logprobs: tuple[TokenLogprobs, ...] = (),
        prefill_seconds: float = 0.0,
    ) -> Emission:
        work = running.progress.work
        return Emission(
            request_id=work.request_id,
            attempt=work.attempt,
            seq=seq,
            token_ids=tuple(token_ids),
            logprobs=logprobs,
            finish_reason=running.progress.finish_reason,
            prefill_seconds=prefill_seconds,
        )


def _choose(logits: torch.Tensor, progress: Progress) -> tuple[int, tuple[TokenLogprobs, ...]]:
    sampling = progress.work.sampling
    # The maximum is NaN where any logit is.
    if not bool(logits.max().isfinite()):
        raise InvalidLogits(progress.work.request_id, position=progress.position)
    token_id = choose_token(logits, sampling, position=progress.position)
    if sampling.logprobs is None:
        return token_id, ()
    return token_id, (log_probabilities(logits, token_id, n_top=sampling.logprobs),)
