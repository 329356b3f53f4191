"""The rules that every engine follows for one attempt: may it run, and when does it end."""

from __future__ import annotations

import math

from pilotlight.store_node.engines.engine import Work, WorkRefused
from pilotlight.store_node.protocol.values import FinishReason, Sampling

MAX_TOP_LOGPROBS = 20
"""As many alternatives as OpenAI's interface has; it bounds what a token weighs on the wire."""


class Progress:
    """How far one attempt is.

    An attempt ends with a stop id, which is its last token; or after
    `sampling.max_tokens` tokens, those of earlier attempts included; or when
    prompt and tokens together fill the context.
    """

    def __init__(self, work: Work, *, context_tokens: int, vocabulary: int) -> None:
        """Begin where the earlier attempts ended.

        Raises:
            WorkRefused: the attempt can never run here.
        """
        _check(work, context_tokens=context_tokens, vocabulary=vocabulary)
        sampling = work.sampling
        self.work = work
        self.seq = len(work.emitted_ids)
        """The number of the next token."""
        self._stop_ids = frozenset(sampling.stop_token_ids)
        self._last_seq = min(sampling.max_tokens, context_tokens - len(work.prompt_ids))
        self.finish_reason = self._finish_reason(work.emitted_ids[-1] if work.emitted_ids else None)
        """Set from the beginning where earlier attempts emitted all there is."""

    @property
    def ids(self) -> tuple[int, ...]:
        """The tokens that this attempt starts from."""
        return self.work.prompt_ids + self.work.emitted_ids

    @property
    def position(self) -> int:
        """Where the next token lies in prompt and tokens together, from 0."""
        return len(self.work.prompt_ids) + self.seq

    @property
    def tokens_left(self) -> int:
        """Tokens that may still come."""
        return 0 if self.finish_reason is not None else self._last_seq - self.seq

    def accept(self, token_id: int) -> None:
        """Count the next token."""
        self.seq += 1
        self.finish_reason = self._finish_reason(token_id)

    def _finish_reason(self, last_id: int | None) -> FinishReason | None:
        if last_id in self._stop_ids:
            return FinishReason.STOP
        return FinishReason.LENGTH if self.seq >= self._last_seq else None


def _check(work: Work, *, context_tokens: int, vocabulary: int) -> None:
    if not work.prompt_ids:
        raise WorkRefused("invalid", "the prompt has no tokens")
    if len(work.prompt_ids) >= context_tokens:
        raise WorkRefused(
            "too_long",
            f"a prompt of {len(work.prompt_ids)} tokens leaves no room for an answer"
            f" in a context of {context_tokens}",
        )
    for ids in (work.prompt_ids, work.emitted_ids):
        if ids and not 0 <= min(ids) <= max(ids) < vocabulary:
            raise WorkRefused("invalid", f"token ids must lie between 0 and {vocabulary - 1}")
    if rule := _broken_rule(work.sampling):
        raise WorkRefused("invalid", rule)


def _broken_rule(sampling: Sampling) -> str:
    if not (math.isfinite(sampling.temperature) and sampling.temperature >= 0):
        return f"temperature must be 0 or more, not {sampling.temperature}"
    if not 0 < sampling.top_p <= 1:
        return f"top_p must be above 0 and at most 1, not {sampling.top_p}"
    if sampling.top_k < 0:
        return f"top_k must be 0 (off) or more, not {sampling.top_k}"
    if sampling.logprobs is not None and not 0 <= sampling.logprobs <= MAX_TOP_LOGPROBS:
        return f"logprobs must lie between 0 and {MAX_TOP_LOGPROBS}, not {sampling.logprobs}"
    return ""
