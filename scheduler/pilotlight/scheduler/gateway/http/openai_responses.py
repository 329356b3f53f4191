"""OpenAI's answers, whole and as chunks of a stream."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import msgspec
from msgspec import UNSET, UnsetType

from pilotlight.scheduler.gateway.http.openai_logprobs import (
    ChatLogprobs,
    TextLogprobs,
    chat_logprobs,
    text_logprobs,
)
from pilotlight.scheduler.gateway.http.openai_requests import Call
from pilotlight.scheduler.gateway.text.transcript import TextPiece, TokenDetail, Usage


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """All pieces of one answer as one."""

    index: int
    text: str
    token_ids: tuple[int, ...]
    details: tuple[TokenDetail, ...]
    finish_reason: str
    has_text: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """All that a request has got."""

    choices: tuple[Answer, ...]
    usage: Usage


def join(pieces: Sequence[TextPiece]) -> Answers:
    """Return the whole answers; the last piece has their end."""
    usage = pieces[-1].usage
    if usage is None:
        raise ValueError("the last piece has no end")
    by_choice: dict[int, list[TextPiece]] = {}
    for piece in pieces:
        by_choice.setdefault(piece.index, []).append(piece)
    choices = tuple(_join_choice(by_choice[index]) for index in sorted(by_choice))
    return Answers(choices=choices, usage=usage)


def _join_choice(pieces: Sequence[TextPiece]) -> Answer:
    last = pieces[-1]
    if last.finish_reason is None:
        raise ValueError(f"the last piece of answer {last.index} has no end")
    return Answer(
        index=last.index,
        text="".join(piece.text for piece in pieces),
        token_ids=tuple(token for piece in pieces for token in piece.token_ids),
        details=tuple(detail for piece in pieces for detail in piece.details),
        finish_reason=last.finish_reason.value,
        has_text=last.has_text,
    )


class ReplyForm(Protocol):
    """How the answers of one endpoint look."""

    def chunks(self, piece: TextPiece, *, is_first: bool) -> Iterable[msgspec.Struct]:
        """Return the chunks of a stream for one piece, the first of its answer or not."""
        ...

    def usage_chunk(self, usage: Usage) -> msgspec.Struct:
        """Return the chunk that ends a stream whose client wants usage."""
        ...

    def whole(self, answers: Answers) -> msgspec.Struct:
        """Return what answers a request that is not streamed."""
        ...


class UsageBody(msgspec.Struct):
    """Tokens taken and given."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class _Delta(msgspec.Struct):
    role: str | UnsetType = UNSET
    content: str | UnsetType = UNSET


class _ChunkChoice(msgspec.Struct, kw_only=True):
    index: int
    delta: _Delta
    logprobs: ChatLogprobs | None = None
    finish_reason: str | None = None
    token_ids: tuple[int, ...] | UnsetType = UNSET


class _ChatChunk(msgspec.Struct, kw_only=True):
    id: str
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    created: int
    model: str
    choices: list[_ChunkChoice]
    usage: UsageBody | UnsetType | None = UNSET


class _Message(msgspec.Struct):
    content: str
    role: str = "assistant"
    refusal: None = None


class _ChatChoice(msgspec.Struct, kw_only=True):
    index: int
    message: _Message
    logprobs: ChatLogprobs | None
    finish_reason: str
    token_ids: tuple[int, ...] | UnsetType = UNSET


class _ChatCompletion(msgspec.Struct, kw_only=True):
    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[_ChatChoice]
    usage: UsageBody


class _TextChoice(msgspec.Struct, kw_only=True):
    text: str
    index: int
    logprobs: TextLogprobs | None
    finish_reason: str | None
    token_ids: tuple[int, ...] | UnsetType = UNSET


class _TextCompletion(msgspec.Struct, kw_only=True):
    """Whole answers and chunks look alike here."""

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    choices: list[_TextChoice]
    usage: UsageBody | UnsetType | None = UNSET


class ChatForm:
    """Answers of /v1/chat/completions."""

    def __init__(self, call: Call, *, reply_id: str, created: int) -> None:
        self._call = call
        self._id = f"chatcmpl-{reply_id}"
        self._created = created
        self._no_usage: UnsetType | None = None if call.is_stream_with_usage else UNSET

    def chunks(self, piece: TextPiece, *, is_first: bool) -> Iterable[_ChatChunk]:
        """Return the role, the text and the end, as far as the piece has them."""
        if is_first:
            delta = _Delta(role="assistant", content="")
            yield self._chunk(_ChunkChoice(index=piece.index, delta=delta))
        if piece.text or piece.token_ids:
            choice = _ChunkChoice(
                index=piece.index,
                delta=_Delta(content=piece.text),
                logprobs=chat_logprobs(piece.details),
                token_ids=_token_ids(self._call, piece),
            )
            yield self._chunk(choice)
        if piece.finish_reason is not None:
            reason = piece.finish_reason.value
            end = _ChunkChoice(index=piece.index, delta=_Delta(), finish_reason=reason)
            yield self._chunk(end)

    def usage_chunk(self, usage: Usage) -> _ChatChunk:
        """Return the chunk without a choice."""
        return _ChatChunk(
            id=self._id,
            created=self._created,
            model=self._call.request.model,
            choices=[],
            usage=usage_body(usage),
        )

    def whole(self, answers: Answers) -> _ChatCompletion:
        """Return each answer as a message."""
        choices = [
            _ChatChoice(
                index=answer.index,
                message=_Message(answer.text),
                logprobs=chat_logprobs(answer.details),
                finish_reason=answer.finish_reason,
                token_ids=_token_ids(self._call, answer),
            )
            for answer in answers.choices
        ]
        return _ChatCompletion(
            id=self._id,
            created=self._created,
            model=self._call.request.model,
            choices=choices,
            usage=usage_body(answers.usage),
        )

    def _chunk(self, choice: _ChunkChoice) -> _ChatChunk:
        return _ChatChunk(
            id=self._id,
            created=self._created,
            model=self._call.request.model,
            choices=[choice],
            usage=self._no_usage,
        )


class CompletionForm:
    """Answers of /v1/completions."""

    def __init__(self, call: Call, *, reply_id: str, created: int) -> None:
        self._call = call
        self._id = f"cmpl-{reply_id}"
        self._created = created
        self._no_usage: UnsetType | None = None if call.is_stream_with_usage else UNSET

    def chunks(self, piece: TextPiece, *, is_first: bool) -> Iterable[_TextCompletion]:
        """Return the text, with the end where the piece has one."""
        reason = None if piece.finish_reason is None else piece.finish_reason.value
        choice = _TextChoice(
            text=piece.text,
            index=piece.index,
            logprobs=text_logprobs(piece.details),
            finish_reason=reason,
            token_ids=_token_ids(self._call, piece),
        )
        yield self._completion([choice], usage=self._no_usage)

    def usage_chunk(self, usage: Usage) -> _TextCompletion:
        """Return the chunk without a choice."""
        return self._completion([], usage=usage_body(usage))

    def whole(self, answers: Answers) -> _TextCompletion:
        """Return each answer as a text."""
        choices = [
            _TextChoice(
                text=answer.text,
                index=answer.index,
                logprobs=text_logprobs(answer.details),
                finish_reason=answer.finish_reason,
                token_ids=_token_ids(self._call, answer),
            )
            for answer in answers.choices
        ]
        return self._completion(choices, usage=usage_body(answers.usage))

    def _completion(
        self, choices: list[_TextChoice], *, usage: UsageBody | UnsetType | None
    ) -> _TextCompletion:
        return _TextCompletion(
            id=self._id,
            created=self._created,
            model=self._call.request.model,
            choices=choices,
            usage=usage,
        )


def usage_body(usage: Usage) -> UsageBody:
    """Return usage with its sum."""
    total = usage.prompt_tokens + usage.completion_tokens
    return UsageBody(usage.prompt_tokens, usage.completion_tokens, total)


def _token_ids(call: Call, told: TextPiece | Answer) -> tuple[int, ...] | UnsetType:
    return told.token_ids if call.returns_token_ids or not told.has_text else UNSET
