from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from pilotlight.scheduler.errors import InvalidRequest
from pilotlight.scheduler.gateway.text.text_request import (
    MOST_MESSAGES,
    ChatMessage,
    Conversation,
    TextRequest,
    is_usable_id,
)

REQUEST = TextRequest(model="m", prompt="hello")


@pytest.mark.parametrize(
    ("param", "value", "rule"),
    [
        ("model", "", "model must be the name of a deployed model"),
        ("prompt", "", "prompt must not be empty"),
        ("prompt", (), "prompt must not be empty"),
        ("prompt", (-1,), "no token id"),
        ("prompt", (1 << 32,), "no token id"),
        ("max_tokens", 0, "max_tokens must be at least 1"),
        ("temperature", -0.1, "temperature must be from 0 to 2"),
        ("temperature", float("nan"), "temperature must be"),
        ("top_p", 0.0, "top_p must be above 0"),
        ("top_p", 1.1, "top_p must be above 0"),
        ("top_k", -2, "top_k must be from -1"),
        ("top_k", 1 << 31, "top_k must be from -1"),
        ("presence_penalty", 2.1, "presence_penalty must be from -2 to 2"),
        ("presence_penalty", float("nan"), "presence_penalty must be from -2 to 2"),
        ("frequency_penalty", -2.1, "frequency_penalty must be from -2 to 2"),
        ("repetition_penalty", 0.0, "repetition_penalty must be between 0.01 and 10"),
        ("repetition_penalty", 10.5, "repetition_penalty must be between 0.01 and 10"),
        ("repetition_penalty", float("nan"), "repetition_penalty must be between 0.01"),
        ("logit_bias", {-1: 1.0}, "logit_bias must be for token ids: from 0 to 4294967295"),
        ("logit_bias", {1 << 32: 1.0}, "logit_bias must be for token ids: from 0 to 4294967295"),
        ("logit_bias", dict.fromkeys(range(1025), 1.0), "logit_bias must be for at most 1024"),
        ("logit_bias", {5: 100.5}, "logit_bias must be numbers from -100 to 100"),
        ("logit_bias", {5: float("nan")}, "logit_bias must be numbers from -100 to 100"),
        ("n", 0, "n must be from 1 to 16"),
        ("n", 17, "n must be from 1 to 16"),
        ("seed", 1 << 64, "seed must be a 64-bit integer"),
        ("seed", -(1 << 63) - 1, "seed must be a 64-bit integer"),
        ("stop", ("x",) * 17, "stop must be at most 16 strings"),
        ("stop", ("",), "stop must be strings of 1 to 1024"),
        ("stop", ("x" * 1025,), "stop must be strings of 1 to 1024"),
        ("stop_token_ids", (-1,), "stop_token_ids must be token ids: from 0 to 4294967295"),
        ("stop_token_ids", (1 << 32,), "stop_token_ids must be token ids: from 0 to 4294967295"),
        ("stop_token_ids", (1,) * 17, "stop_token_ids must be at most 16"),
        ("logprobs", 21, "logprobs must be from 0 to 20"),
        ("deadline_seconds", 0.0, "deadline_seconds must be above 0"),
        ("deadline_seconds", float("inf"), "deadline_seconds must be above 0"),
        ("deadline_seconds", float("nan"), "deadline_seconds must be above 0"),
        ("request_id", "", "request_id must be 1 to 128"),
        ("request_id", "a\nb", "request_id must be 1 to 128"),
    ],
)
def test_a_parameter_that_breaks_a_rule_is_named(param: str, value: Any, rule: str) -> None:
    with pytest.raises(InvalidRequest, match=rule) as caught:
        replace(REQUEST, **{param: value}).check()

    assert caught.value.param == param


def test_a_conversation_has_an_end() -> None:
    message = ChatMessage(role="user", content="")
    longest = TextRequest(model="m", prompt=Conversation(messages=(message,) * MOST_MESSAGES))
    longest.check()

    with pytest.raises(InvalidRequest, match="a chat has at most 16384"):
        replace(longest, prompt=Conversation(messages=(message,) * (MOST_MESSAGES + 1))).check()


def test_an_empty_conversation_is_named_as_clients_know_it() -> None:
    with pytest.raises(InvalidRequest, match="messages must not be empty") as caught:
        TextRequest(model="m", prompt=Conversation(messages=())).check()

    assert caught.value.param == "messages"


@pytest.mark.parametrize(
    "request_",
    [
        REQUEST,
        replace(REQUEST, prompt=(0, 5)),
        replace(REQUEST, prompt=Conversation(messages=(ChatMessage(role="user", content=""),))),
        replace(REQUEST, temperature=0.0, top_p=1.0, top_k=-1, seed=-1, logprobs=0),
        replace(REQUEST, presence_penalty=2.0, frequency_penalty=-2.0, repetition_penalty=10.0),
        replace(REQUEST, logit_bias={0: -100.0, 2**32 - 1: 100.0}, n=16),
        replace(REQUEST, stop=("x" * 1024,) * 16, deadline_seconds=86400.0, request_id="a b"),
    ],
)
def test_what_breaks_no_rule_is_taken(request_: TextRequest) -> None:
    request_.check()

    assert request_.model == "m"


def test_a_negative_seed_wraps_around() -> None:
    assert replace(REQUEST, seed=-1).unsigned_seed == 2**64 - 1
    assert replace(REQUEST, seed=None).unsigned_seed is None


@pytest.mark.parametrize(("text", "is_usable"), [("req-1", True), ("é", False), ("x" * 129, False)])
def test_ids_are_short_printable_ascii(text: str, is_usable: bool) -> None:
    assert is_usable_id(text) is is_usable
