"""The rules that every engine follows for one attempt: may it run, and when does it end."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence

from pilotlight.store_node.engines.engine import Extension, Work, WorkRefused
from pilotlight.store_node.protocol.values import FinishReason, Sampling

MAX_TOP_LOGPROBS = 20
"""As many alternatives as OpenAI's interface has; it bounds what a token weighs on the wire."""

MAX_LOGIT_BIASES = 1024
"""More than any client sends; it bounds what choosing one token costs."""

# The bounds of OpenAI's interface; the last is what makes any text but new words impossible.
_MOST_PENALTY = 2.0
_MOST_LOGIT_BIAS = 100.0
_LEAST_REPETITION_PENALTY = 0.01
_MOST_REPETITION_PENALTY = 10.0


class Progress:
    """How far one attempt is.

    An attempt ends with a stop id, which is its last token; or after
    `sampling.max_tokens` tokens, those of earlier attempts included; or when
    prompt and tokens together fill the context. One that is held has no end
    before it is released.
    """

    def __init__(self, work: Work, *, context_tokens: int, vocabulary: int) -> None:
        """Begin where the earlier attempts ended.

        Raises:
            WorkRefused: the attempt can never run here.
        """
        _check(work, context_tokens=context_tokens, vocabulary=vocabulary)
        sampling = work.sampling
        self.work = work
        self.attempt = work.attempt
        """That emissions are to carry: an extension may raise it."""
        self.is_held = work.is_held
        """True while no token may be emitted."""
        self._end: FinishReason | None = None
        self._ids = [*work.prompt_ids, *work.emitted_ids]
        self._vocabulary = vocabulary
        self._stop_ids = frozenset(sampling.stop_token_ids)
        self._last_seq = min(sampling.max_tokens, context_tokens - len(work.prompt_ids))
        if work.is_held and len(work.emitted_ids) > self._last_seq:
            raise WorkRefused(
                "too_long",
                f"{len(work.emitted_ids)} tokens were given, where {self._last_seq} may follow"
                f" the prompt",
            )
        self._note_end(work.emitted_ids)

    @property
    def finish_reason(self) -> FinishReason | None:
        """Why no token follows, from the beginning where earlier attempts emitted all there is.

        None while the attempt is held: an end is emitted as a token is.
        """
        return None if self.is_held else self._end

    @property
    def ids(self) -> Sequence[int]:
        """All tokens so far, in one list that grows: prompt, earlier attempts, this one."""
        return self._ids

    @property
    def seq(self) -> int:
        """The number of the next token."""
        return len(self._ids) - len(self.work.prompt_ids)

    @property
    def position(self) -> int:
        """Where the next token lies in prompt and tokens together, from 0."""
        return len(self._ids)

    @property
    def tokens_left(self) -> int:
        """Tokens that may still come."""
        return 0 if self._end is not None else self._last_seq - self.seq

    def accept(self, token_id: int) -> None:
        """Count the next token."""
        self._ids.append(token_id)
        self._note_end((token_id,))

    def extend(self, extension: Extension) -> None:
        """Add what another place emitted, and go on from there once it says so.

        Raises:
            WorkRefused: "unknown": the attempt is not held; "invalid": these tokens
                can't follow. Nothing has changed then.
        """
        if not self.is_held:
            raise WorkRefused("unknown", f"request {extension.request_id!r} is not held")
        self._check_extension(extension)
        self._ids.extend(extension.emitted_ids)
        self.attempt = extension.attempt
        self.is_held = extension.is_held
        self._note_end(extension.emitted_ids)

    def _check_extension(self, extension: Extension) -> None:
        if extension.attempt < self.attempt:
            raise WorkRefused(
                "invalid", f"attempt {self.attempt} can't become {extension.attempt} again"
            )
        _check_ids(extension.emitted_ids, vocabulary=self._vocabulary)
        if len(extension.emitted_ids) > self.tokens_left:
            raise WorkRefused(
                "invalid",
                f"{len(extension.emitted_ids)} more tokens were given,"
                f" where {self.tokens_left} could follow",
            )
        if self._stop_ids.intersection(extension.emitted_ids[:-1]):
            raise WorkRefused("invalid", "tokens were given that follow a stop id")

    def _note_end(self, new_ids: Sequence[int]) -> None:
        if new_ids and new_ids[-1] in self._stop_ids:
            self._end = FinishReason.STOP
        elif self._end is None and self.seq >= self._last_seq:
            self._end = FinishReason.LENGTH


def _check(work: Work, *, context_tokens: int, vocabulary: int) -> None:
    if not work.prompt_ids:
        raise WorkRefused("invalid", "the prompt has no tokens")
    if len(work.prompt_ids) >= context_tokens:
        raise WorkRefused(
            "too_long",
            f"a prompt of {len(work.prompt_ids)} tokens leaves no room for an answer"
            f" in a context of {context_tokens}",
        )
    for ids in (work.prompt_ids, work.emitted_ids, work.sampling.logit_bias):
        _check_ids(ids, vocabulary=vocabulary)
    if rule := _broken_rule(work.sampling):
        raise WorkRefused("invalid", rule)


def _check_ids(ids: Collection[int], *, vocabulary: int) -> None:
    if ids and not 0 <= min(ids) <= max(ids) < vocabulary:
        raise WorkRefused("invalid", f"token ids must lie between 0 and {vocabulary - 1}")


def _broken_rule(sampling: Sampling) -> str:
    """Say which rule a request breaks; NaN lies between no two numbers."""
    if not (math.isfinite(sampling.temperature) and sampling.temperature >= 0):
        return f"temperature must be 0 or more, not {sampling.temperature}"
    if not 0 < sampling.top_p <= 1:
        return f"top_p must be above 0 and at most 1, not {sampling.top_p}"
    if sampling.top_k < 0:
        return f"top_k must be 0 (off) or more, not {sampling.top_k}"
    if sampling.logprobs is not None and not 0 <= sampling.logprobs <= MAX_TOP_LOGPROBS:
        return f"logprobs must lie between 0 and {MAX_TOP_LOGPROBS}, not {sampling.logprobs}"
    return _broken_penalty_rule(sampling) or _broken_bias_rule(sampling.logit_bias)


def _broken_penalty_rule(sampling: Sampling) -> str:
    for name, value, least, most in (
        ("presence_penalty", sampling.presence_penalty, -_MOST_PENALTY, _MOST_PENALTY),
        ("frequency_penalty", sampling.frequency_penalty, -_MOST_PENALTY, _MOST_PENALTY),
        (
            "repetition_penalty",
            sampling.repetition_penalty or 1.0,  # 0 is off.
            _LEAST_REPETITION_PENALTY,
            _MOST_REPETITION_PENALTY,
        ),
    ):
        if not least <= value <= most:
            return f"{name} must lie between {least:g} and {most:g}, not {value}"
    return ""


def _broken_bias_rule(logit_bias: Mapping[int, float]) -> str:
    if len(logit_bias) > MAX_LOGIT_BIASES:
        return f"logit_bias may name {MAX_LOGIT_BIASES} tokens, not {len(logit_bias)}"
    for token_id, bias in logit_bias.items():
        if not -_MOST_LOGIT_BIAS <= bias <= _MOST_LOGIT_BIAS:
            return (
                f"logit_bias must lie between {-_MOST_LOGIT_BIAS:g} and {_MOST_LOGIT_BIAS:g},"
                f" not {bias} as that of token {token_id}"
            )
    return ""
