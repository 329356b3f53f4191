"""Log probabilities in OpenAI's two forms."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from pilotlight.scheduler.gateway.text.transcript import ScoredToken, TokenDetail

_LEAST_LOGPROB = -9999.0
"""What OpenAI writes for a token without any probability; JSON has no infinity."""


class _TopLogprob(msgspec.Struct):
    token: str
    logprob: float
    bytes: list[int]


class _TokenLogprob(msgspec.Struct):
    token: str
    logprob: float
    bytes: list[int]
    top_logprobs: list[_TopLogprob]


class ChatLogprobs(msgspec.Struct):
    """As conversations have them."""

    content: list[_TokenLogprob]
    refusal: None = None


class TextLogprobs(msgspec.Struct):
    """As completions have them: one list for each kind of thing."""

    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]]
    text_offset: list[int]


def chat_logprobs(details: Sequence[TokenDetail]) -> ChatLogprobs | None:
    """Return them for a conversation; None where none were asked for."""
    if not details:
        return None
    return ChatLogprobs(
        [
            _TokenLogprob(
                detail.token.text,
                _finite(detail.token.logprob),
                list(detail.token.raw),
                [_TopLogprob(top.text, _finite(top.logprob), list(top.raw)) for top in detail.top],
            )
            for detail in details
        ]
    )


def text_logprobs(details: Sequence[TokenDetail]) -> TextLogprobs | None:
    """Return them for a completion; None where none were asked for."""
    if not details:
        return None
    return TextLogprobs(
        tokens=[detail.token.text for detail in details],
        token_logprobs=[_finite(detail.token.logprob) for detail in details],
        top_logprobs=[_alternatives((*detail.top, detail.token)) for detail in details],
        text_offset=[detail.text_offset for detail in details],
    )


def _alternatives(tokens: Sequence[ScoredToken]) -> dict[str, float]:
    return {token.text: _finite(token.logprob) for token in tokens}


def _finite(logprob: float) -> float:
    return max(logprob, _LEAST_LOGPROB)
