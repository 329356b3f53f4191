from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from pilotlight.scheduler.errors import InvalidRequest
from pilotlight.scheduler.gateway.http.openai_requests import Call, read_chat, read_completion
from pilotlight.scheduler.gateway.text.text_request import ChatMessage, Conversation

HELLO = {"role": "user", "content": "Hello"}

Read = Callable[[bytes], Call]


def chat(**fields: Any) -> Call:
    return read_chat(msgspec.json.encode({"model": "m", "messages": [HELLO], **fields}))


def completion(**fields: Any) -> Call:
    return read_completion(msgspec.json.encode({"model": "m", "prompt": "Hello", **fields}))


def test_a_bare_chat_request_gets_openais_defaults() -> None:
    call = chat()

    assert call.request.prompt == Conversation(
        messages=(ChatMessage(role="user", content="Hello"),)
    )
    assert (call.request.temperature, call.request.top_p, call.request.top_k) == (1.0, 1.0, 0)
    assert (call.request.presence_penalty, call.request.frequency_penalty) == (0.0, 0.0)
    assert (call.request.repetition_penalty, call.request.logit_bias) == (1.0, {})
    assert call.request.n == 1
    assert call.request.max_tokens is None
    assert call.request.seed is None
    assert call.request.logprobs is None
    assert (call.is_stream, call.includes_usage, call.returns_token_ids) == (False, False, False)


def test_all_that_is_supported_is_read() -> None:
    call = completion(
        max_tokens=5,
        temperature=0,
        top_p=0.5,
        top_k=40,
        presence_penalty=-0.5,
        frequency_penalty=2,
        repetition_penalty=1.25,
        logit_bias={"50256": -100, "7": 0.5},
        seed=-3,
        n=3,
        stop=["a", "b"],
        stop_token_ids=[4],
        ignore_eos=True,
        logprobs=2,
        deadline_seconds=9.5,
        stream=True,
        stream_options={"include_usage": True, "include_obfuscation": False},
        return_token_ids=True,
        user="ada",
        echo=False,
    )

    request = call.request
    assert (request.max_tokens, request.temperature, request.top_p) == (5, 0.0, 0.5)
    assert (request.top_k, request.seed, request.stop) == (40, -3, ("a", "b"))
    assert (request.stop_token_ids, request.ignore_eos, request.logprobs) == ((4,), True, 2)
    assert (request.presence_penalty, request.frequency_penalty) == (-0.5, 2.0)
    assert (request.repetition_penalty, request.n) == (1.25, 3)
    assert request.logit_bias == {50256: -100.0, 7: 0.5}
    assert request.deadline_seconds == 9.5
    assert (call.is_stream, call.includes_usage, call.returns_token_ids) == (True, True, True)


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("text", "text"),
        (["text"], "text"),
        ([1, 2], (1, 2)),
        ([[1, 2]], (1, 2)),
        ([7], (7,)),
        ([], ()),
        ([[]], ()),
    ],
)
def test_a_prompt_is_one_text_or_one_list_of_ids(prompt: object, expected: object) -> None:
    assert completion(prompt=prompt).request.prompt == expected


@pytest.mark.parametrize("prompt", [["a", "b"], [[1], [2]], [1, "a"], [1, [2]]])
def test_several_prompts_are_refused(prompt: object) -> None:
    with pytest.raises(InvalidRequest, match="prompt must be one text or one list") as caught:
        completion(prompt=prompt)

    assert caught.value.param == "prompt"


@pytest.mark.parametrize(
    ("stop", "expected"), [("a", ("a",)), (["a", "b"], ("a", "b")), (None, ())]
)
def test_stop_is_one_string_or_several(stop: object, expected: object) -> None:
    assert chat(stop=stop).request.stop == expected


def test_the_newer_name_of_max_tokens_goes_first() -> None:
    assert chat(max_tokens=5).request.max_tokens == 5
    assert chat(max_tokens=5, max_completion_tokens=6).request.max_tokens == 6


def test_parts_of_text_are_joined() -> None:
    parts = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]

    call = chat(messages=[{"role": "developer", "content": parts, "name": "ada"}])

    assert call.request.prompt == Conversation(
        messages=(ChatMessage(role="system", content="one\ntwo", name="ada"),)
    )


@pytest.mark.parametrize(
    ("message", "rule", "param"),
    [
        ({"role": "tool", "content": "x"}, "role must be system", "messages[0].role"),
        ({"role": "user"}, "content is missing", "messages[0].content"),
        ({"role": "user", "content": None}, "content is missing", "messages[0].content"),
        (
            {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]},
            "content must be text, not 'image_url'",
            "messages[0].content",
        ),
        ({"role": "user", "content": 5}, "expected str | array | null", "messages[0].content"),
        (
            {"role": "assistant", "content": "", "tool_calls": [{"id": "1"}]},
            "tool calls are not supported",
            "messages[0].tool_calls",
        ),
        ({"content": "x"}, r"messages\[0\].role is missing", "messages[0].role"),
    ],
)
def test_messages_that_can_not_be_honoured_are_refused(
    message: object, rule: str, param: str
) -> None:
    with pytest.raises(InvalidRequest, match=rule.replace("|", r"\|")) as caught:
        chat(messages=[message])

    assert caught.value.param == param


def test_log_probabilities_of_chat() -> None:
    assert chat(logprobs=True).request.logprobs == 0
    assert chat(logprobs=True, top_logprobs=4).request.logprobs == 4
    assert chat(logprobs=False).request.logprobs is None
    with pytest.raises(InvalidRequest, match="top_logprobs needs logprobs"):
        chat(top_logprobs=4)
    with pytest.raises(InvalidRequest, match="top_logprobs must be from 0 to 20"):
        chat(logprobs=True, top_logprobs=21)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("tools", [{"type": "function"}]),
        ("functions", [{}]),
        ("response_format", {"type": "json_object"}),
        ("modalities", ["audio"]),
        ("reasoning_effort", "high"),
        ("min_p", 0.1),
    ],
)
def test_a_known_parameter_that_would_change_the_answer_is_refused(
    name: str, value: object
) -> None:
    with pytest.raises(InvalidRequest, match=f"{name} is not supported") as caught:
        chat(**{name: value})

    assert (caught.value.param, caught.value.code) == (name, "unsupported_parameter")


@pytest.mark.parametrize("name", ["best_of", "echo", "suffix"])
def test_the_same_holds_for_completions(name: str) -> None:
    value = {"best_of": 2, "echo": True, "suffix": "end"}[name]

    with pytest.raises(InvalidRequest, match=f"{name} is not supported"):
        completion(**{name: value})


def test_best_of_is_refused_with_the_reason() -> None:
    with pytest.raises(InvalidRequest) as caught:
        completion(n=2, best_of=4)

    assert str(caught.value) == (
        "best_of is not supported, except 1: answers are not ranked; ask for n of them, and choose"
    )


def test_known_parameters_with_harmless_values_and_unknown_ones_are_ignored() -> None:
    call = chat(
        n=1,
        tools=[],
        tool_choice="none",
        response_format={"type": "text"},
        presence_penalty=0.0,
        logit_bias={},
        frequency_penalty=None,
        repetition_penalty=None,
        best_of=1,
        store=True,
        metadata={"a": ["b"]},
        something_new={"x": 1},
    )

    assert call == chat()


@pytest.mark.parametrize("read", [read_chat, read_completion])
@pytest.mark.parametrize(
    ("body", "rule"),
    [
        (b"", "truncated after 0 bytes"),
        (b'{"model": "m", ', "truncated after 15 bytes"),
        (b'{"model": "m"} x', r"trailing characters \(byte 16\)"),
        (b"\xff", r"invalid character \(byte 0\)"),
        (b'{"model": "\xff"}', "a string is not UTF-8"),
        (b'{"model": "m", "temperature": NaN}', r"invalid character \(byte 30\)"),
        (b'{"model": "\\ud800"}', "surrogate|truncated"),
        (b'{"model": "m", "x": ' + b"[" * 100_000, "nested too deeply|truncated"),
    ],
)
def test_what_is_no_json_is_refused_with_the_place(read: Read, body: bytes, rule: str) -> None:
    with pytest.raises(InvalidRequest, match=f"the body is not valid JSON: .*({rule})") as caught:
        read(body)

    assert caught.value.param is None
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    ("body", "rule", "param"),
    [
        (b"[]", "the body: expected object, got array", None),
        (b"{}", "is missing", None),
        (b'{"model": 5, "messages": []}', "model: expected str, got int", "model"),
        (
            b'{"model": "m", "messages": [], "max_tokens": 1.5}',
            "max_tokens: expected int . null, got float",
            "max_tokens",
        ),
        (
            b'{"model": "m", "messages": [], "temperature": 1e400}',
            "temperature: number out of range",
            "temperature",
        ),
        (
            b'{"model": "m", "messages": [], "stop": ["a", 1]}',
            r"stop\[1\]: expected str, got int",
            "stop[1]",
        ),
        (
            b'{"model": "m", "messages": [], "stream_options": {"include_usage": 1}}',
            "stream_options.include_usage: expected bool",
            "stream_options.include_usage",
        ),
        (
            b'{"model": "m", "messages": [], "logit_bias": {"a": 1}}',
            "logit_bias: its keys: expected int, got str",
            "logit_bias",
        ),
        (
            b'{"model": "m", "messages": [], "logit_bias": {"5": "1"}}',
            "logit_bias: expected float, got str",
            "logit_bias",
        ),
        (
            b'{"model": "m", "messages": [], "logit_bias": [5]}',
            "logit_bias: expected object . null, got array",
            "logit_bias",
        ),
        (b'{"model": "m", "messages": [], "n": "2"}', "n: expected int . null, got str", "n"),
        (b'{"model": "m", "messages": []}', "messages must not be empty", "messages"),
        (
            b'{"model": "m", "messages": [%s]}'
            % b",".join([b'{"role": "user", "content": ""}'] * 16385),
            "messages: a chat has at most 16384",
            "messages",
        ),
    ],
)
def test_a_field_of_the_wrong_type_is_named(body: bytes, rule: str, param: str | None) -> None:
    with pytest.raises(InvalidRequest, match=rule) as caught:
        read_chat(body)

    if param is not None:
        assert caught.value.param == param
    assert "`" not in str(caught.value)


def test_of_a_repeated_field_the_last_counts() -> None:
    call = read_completion(b'{"model": "a", "prompt": "x", "model": "b"}')

    assert call.request.model == "b"
