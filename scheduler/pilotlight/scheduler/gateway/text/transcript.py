"""A request's tokens on their way to text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pilotlight.scheduler.gateway.text.detokenizer import Detokenizer
from pilotlight.scheduler.gateway.text.stop_strings import StopStrings
from pilotlight.scheduler.gateway.text.tokenizer import TextTokenizer
from pilotlight.store_node.protocol import FinishReason, TokenBatch, TokenLogprobs


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Tokens that a request has taken and given."""

    prompt_tokens: int
    completion_tokens: int

    @classmethod
    def of_choices(cls, usages: Sequence[Usage]) -> Usage:
        """Return what several answers to one prompt have taken and given together."""
        return cls(
            prompt_tokens=usages[0].prompt_tokens,
            completion_tokens=sum(usage.completion_tokens for usage in usages),
        )


@dataclass(frozen=True, slots=True)
class ScoredToken:
    """A token as people read it, with its log probability."""

    text: str
    raw: bytes
    """Its own bytes, which may be only part of a character."""
    logprob: float


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenDetail:
    """A generated token, the likeliest ones at its place, and where its text begins."""

    token: ScoredToken
    top: tuple[ScoredToken, ...]
    text_offset: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TextPiece:
    """What a request has got since the piece before.

    Text may come later than its tokens: a character may need several of them,
    and what may be the beginning of a stop string is held back.
    """

    text: str
    token_ids: tuple[int, ...]
    index: int = 0
    """Which of the request's answers it belongs to."""
    details: tuple[TokenDetail, ...] = ()
    """One for each token where log probabilities were asked for."""
    finish_reason: FinishReason | None = None
    """STOP or LENGTH, on the last piece of each answer."""
    usage: Usage | None = None
    """On the last piece of all."""
    has_text: bool = True
    """False for a model without a tokenizer: its tokens are all there is."""


class Transcript:
    """Makes text of one answer's batches, and ends it at a stop string.

    Without a tokenizer the text stays empty and only tokens are told.
    """

    def __init__(
        self,
        tokenizer: TextTokenizer | None,
        *,
        prompt_tokens: int,
        end_ids: Sequence[int],
        stop: Sequence[str] = (),
        index: int = 0,
    ) -> None:
        self._tokenizer = tokenizer
        self._index = index
        self._prompt_tokens = prompt_tokens
        self._end_ids = frozenset(end_ids)
        self._detokenizer = None if tokenizer is None else Detokenizer(tokenizer)
        self._stops = StopStrings(stop)
        self._has_stops = bool(stop)
        self._completion_tokens = 0

    def add(self, batch: TokenBatch) -> TextPiece:
        """Take the next batch; a finish reason in the result ends the request."""
        if not self._has_stops and not batch.logprobs:
            text = self._decode(batch.token_ids, batch)
            return self._piece(text, batch, n_tokens=len(batch.token_ids))
        # Token by token, so that the text is cut, and tokens are counted, at
        # the token which completes a stop string however batches are divided.
        text = ""
        details: list[TokenDetail] = []
        for index, token_id in enumerate(batch.token_ids):
            if index < len(batch.logprobs):
                details.append(self._detail(token_id, batch.logprobs[index]))
            is_last = index == len(batch.token_ids) - 1
            cut = self._stops.push(self._decode((token_id,), batch if is_last else None))
            text += cut.text
            if cut.is_stopped:
                return self._stopped(text, batch, details, n_tokens=index + 1)
        return self._piece(text, batch, n_tokens=len(batch.token_ids), details=details)

    def _decode(self, token_ids: Sequence[int], ends: TokenBatch | None) -> str:
        """Return the new text; the token that ended a batch's request has none."""
        if self._detokenizer is None:
            return ""
        has_end = ends is not None and ends.finish_reason is FinishReason.STOP
        if has_end and token_ids and token_ids[-1] in self._end_ids:
            token_ids = token_ids[:-1]
        return self._detokenizer.push(token_ids)

    def _piece(
        self,
        text: str,
        batch: TokenBatch,
        *,
        n_tokens: int,
        details: Sequence[TokenDetail] = (),
    ) -> TextPiece:
        self._completion_tokens += n_tokens
        reason = batch.finish_reason
        if reason is not None:
            cut = self._stops.push("" if self._detokenizer is None else self._detokenizer.flush())
            text += cut.text if cut.is_stopped else cut.text + self._stops.flush()
            reason = FinishReason.STOP if cut.is_stopped else reason
        return TextPiece(
            text=text,
            token_ids=batch.token_ids,
            index=self._index,
            details=tuple(details),
            finish_reason=reason,
            usage=None if reason is None else self._usage(),
            has_text=self._tokenizer is not None,
        )

    def _stopped(
        self, text: str, batch: TokenBatch, details: Sequence[TokenDetail], *, n_tokens: int
    ) -> TextPiece:
        self._completion_tokens += n_tokens
        return TextPiece(
            text=text,
            token_ids=batch.token_ids[:n_tokens],
            index=self._index,
            details=tuple(details),
            finish_reason=FinishReason.STOP,
            usage=self._usage(),
        )

    def _usage(self) -> Usage:
        return Usage(prompt_tokens=self._prompt_tokens, completion_tokens=self._completion_tokens)

    def _detail(self, token_id: int, logprobs: TokenLogprobs) -> TokenDetail:
        return TokenDetail(
            token=self._scored(token_id, logprobs.logprob),
            top=tuple(
                self._scored(top_id, logprob)
                for top_id, logprob in zip(logprobs.top_ids, logprobs.top_logprobs, strict=True)
            ),
            text_offset=0 if self._detokenizer is None else self._detokenizer.position,
        )

    def _scored(self, token_id: int, logprob: float) -> ScoredToken:
        if self._tokenizer is None:
            return ScoredToken(f"token_id:{token_id}", b"", logprob)
        text = self._tokenizer.token_text(token_id)
        return ScoredToken(text, self._tokenizer.token_bytes(token_id), logprob)
