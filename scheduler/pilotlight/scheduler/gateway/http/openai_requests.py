"""OpenAI's requests, read strictly: what can't be honoured is refused, not ignored.

Beside OpenAI's parameters there are `top_k`, `repetition_penalty`, `ignore_eos`,
`stop_token_ids` and `return_token_ids`, which other servers have too, and
`deadline_seconds`. Parameters that nobody knows are ignored, as OpenAI's clients
expect.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec

from pilotlight.scheduler.errors import InvalidRequest
from pilotlight.scheduler.gateway.http.unsupported import refuse_unsupported
from pilotlight.scheduler.gateway.text.text_request import (
    MAX_LOGPROBS,
    ChatMessage,
    Conversation,
    Prompt,
    TextRequest,
    check_messages,
)

T = TypeVar("T")

_CONTENT_SEPARATOR = "\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A request, and how its answer is to look."""

    request: TextRequest
    is_stream: bool
    includes_usage: bool
    returns_token_ids: bool
    """Token ids beside the text; a model without a tokenizer always gives them."""

    @property
    def is_stream_with_usage(self) -> bool:
        """True where every chunk has a place for usage, and the last one has it."""
        return self.is_stream and self.includes_usage


class _StreamOptions(msgspec.Struct):
    include_usage: bool | None = None


class _Body(msgspec.Struct, kw_only=True):
    """What both kinds of requests have."""

    model: str
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    repetition_penalty: float | None = None
    logit_bias: dict[int, float] | None = None
    seed: int | None = None
    n: int | None = None
    stop: str | list[str] | None = None
    stop_token_ids: list[int] | None = None
    ignore_eos: bool | None = None
    deadline_seconds: float | None = None
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    return_token_ids: bool | None = None

    def call(self, prompt: Prompt, *, max_tokens: int | None, logprobs: int | None) -> Call:
        """Return what is asked for, OpenAI's defaults filled in."""
        stop = [self.stop] if isinstance(self.stop, str) else self.stop or []
        request = TextRequest(
            model=self.model,
            prompt=prompt,
            max_tokens=max_tokens,
            temperature=_or_one(self.temperature),
            top_p=_or_one(self.top_p),
            top_k=self.top_k or 0,
            presence_penalty=self.presence_penalty or 0.0,
            frequency_penalty=self.frequency_penalty or 0.0,
            repetition_penalty=_or_one(self.repetition_penalty),
            logit_bias=self.logit_bias or {},
            seed=self.seed,
            n=1 if self.n is None else self.n,
            stop=tuple(stop),
            stop_token_ids=tuple(self.stop_token_ids or ()),
            ignore_eos=bool(self.ignore_eos),
            logprobs=logprobs,
            deadline_seconds=self.deadline_seconds,
        )
        options = self.stream_options or _StreamOptions()
        return Call(
            request=request,
            is_stream=bool(self.stream),
            includes_usage=bool(options.include_usage),
            returns_token_ids=bool(self.return_token_ids),
        )


def _or_one(number: float | None) -> float:
    return 1.0 if number is None else number


class _ContentPart(msgspec.Struct):
    type: str
    text: str | None = None


class _Message(msgspec.Struct):
    role: str
    content: str | list[_ContentPart] | None = None
    name: str | None = None
    tool_calls: Any = None
    function_call: Any = None


class _ChatBody(_Body, kw_only=True):
    messages: list[_Message]
    max_completion_tokens: int | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None


class _CompletionBody(_Body, kw_only=True):
    prompt: str | list[str | int | list[int]]
    logprobs: int | None = None


_FIELDS = msgspec.json.Decoder(dict[str, msgspec.Raw])
_CHAT = msgspec.json.Decoder(_ChatBody)
_COMPLETION = msgspec.json.Decoder(_CompletionBody)


def read_chat(body: bytes) -> Call:
    """Read the body of POST /v1/chat/completions.

    Raises:
        InvalidRequest: with the field at fault.
    """
    parsed = _decode(_CHAT, body)
    check_messages(len(parsed.messages))
    messages = [_message(entry, f"messages[{i}]") for i, entry in enumerate(parsed.messages)]
    limit = parsed.max_completion_tokens
    return parsed.call(
        Conversation(messages=tuple(messages)),
        max_tokens=parsed.max_tokens if limit is None else limit,
        logprobs=_chat_logprobs(parsed),
    )


def read_completion(body: bytes) -> Call:
    """Read the body of POST /v1/completions.

    Raises:
        InvalidRequest: with the field at fault.
    """
    parsed = _decode(_COMPLETION, body)
    return parsed.call(
        _prompt(parsed.prompt), max_tokens=parsed.max_tokens, logprobs=parsed.logprobs
    )


def _decode(decoder: msgspec.json.Decoder[T], body: bytes) -> T:
    try:
        fields = _FIELDS.decode(body)
        refuse_unsupported(fields)
        return decoder.decode(body)
    except msgspec.ValidationError as exc:
        raise _invalid_field(str(exc)) from exc
    except msgspec.DecodeError as exc:
        reason = str(exc).removeprefix("JSON is malformed: ")
        if "truncated" in reason:
            reason = f"truncated after {len(body)} bytes"
        raise InvalidRequest(f"the body is not valid JSON: {reason}") from exc
    except UnicodeDecodeError as exc:
        raise InvalidRequest(f"the body is not valid JSON: a string is not UTF-8: {exc}") from exc
    except RecursionError as exc:
        raise InvalidRequest("the body is not valid JSON: it is nested too deeply") from exc


_WHERE = re.compile(
    r"^(?P<rule>.*?)(?: - at (?P<key>`key` in )?`\$\.?(?P<path>.*?)(?:\[\.\.\.\])?`)?$", re.DOTALL
)
_MISSING = re.compile(r"missing required field `(?P<name>\w+)`")


def _invalid_field(error: str) -> InvalidRequest:
    """Say in OpenAI's terms what msgspec says of a JSON path."""
    match = _WHERE.match(error)
    rule, path = (match["rule"], match["path"] or "") if match else (error, "")
    missing = _MISSING.search(rule)
    if missing is not None:
        param = f"{path}.{missing['name']}" if path else missing["name"]
        return InvalidRequest(f"{param} is missing", param=param)
    rule = rule.replace("`", "")
    if match is not None and match["key"]:
        rule = f"its keys: {rule[:1].lower()}{rule[1:]}"
    return InvalidRequest(f"{path or 'the body'}: {rule[:1].lower()}{rule[1:]}", param=path or None)


def _message(entry: _Message, where: str) -> ChatMessage:
    # OpenAI's newer name for the system's messages, which few templates know.
    role = "system" if entry.role == "developer" else entry.role
    if role not in ("system", "user", "assistant"):
        raise InvalidRequest(
            f"{where}.role must be system, developer, user or assistant", param=f"{where}.role"
        )
    if entry.tool_calls or entry.function_call:
        raise InvalidRequest("tool calls are not supported", param=f"{where}.tool_calls")
    return ChatMessage(role=role, content=_content(entry.content, where), name=entry.name)


def _content(content: str | list[_ContentPart] | None, where: str) -> str:
    if isinstance(content, str):
        return content
    if content is None:
        raise InvalidRequest(f"{where}.content is missing", param=f"{where}.content")
    for part in content:
        if part.type != "text" or part.text is None:
            raise InvalidRequest(
                f"{where}.content must be text, not {part.type!r}", param=f"{where}.content"
            )
    return _CONTENT_SEPARATOR.join(part.text or "" for part in content)


def _chat_logprobs(parsed: _ChatBody) -> int | None:
    top = parsed.top_logprobs
    if not parsed.logprobs:
        if top:
            raise InvalidRequest("top_logprobs needs logprobs to be true", param="top_logprobs")
        return None
    if top is not None and not 0 <= top <= MAX_LOGPROBS:
        raise InvalidRequest(f"top_logprobs must be from 0 to {MAX_LOGPROBS}", param="top_logprobs")
    return top or 0


def _prompt(prompt: str | list[str | int | list[int]]) -> Prompt:
    if isinstance(prompt, str):
        return prompt
    if len(prompt) == 1 and not isinstance(prompt[0], int):
        only = prompt[0]
        return only if isinstance(only, str) else tuple(only)
    ids = tuple(entry for entry in prompt if isinstance(entry, int))
    if len(ids) != len(prompt):
        raise InvalidRequest("prompt must be one text or one list of token ids", param="prompt")
    return ids
