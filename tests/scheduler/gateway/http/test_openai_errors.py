from __future__ import annotations

from typing import Any

import msgspec
import pytest
from starlette.exceptions import HTTPException

from pilotlight.scheduler.errors import (
    BodyTimeout,
    BodyTooLarge,
    DeadlineExceeded,
    DuplicateRequest,
    InvalidRequest,
    LeadershipLost,
    ModelBroken,
    ModelUnavailable,
    NoNodes,
    QueueFull,
    RequestLost,
    ServerStopping,
    StateUnavailable,
    UnknownModel,
    UnsupportedMediaType,
)
from pilotlight.scheduler.gateway.http.openai_errors import error_reply, is_expected


def body_of(error: Exception) -> dict[str, Any]:
    body: dict[str, Any] = msgspec.json.decode(error_reply(error, path="/p").body)
    assert list(body) == ["error"]
    assert list(body["error"]) == ["message", "type", "param", "code"]
    error_body: dict[str, Any] = body["error"]
    return error_body


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (InvalidRequest("bad"), 400, None),
        (UnknownModel("m"), 404, "model_not_found"),
        (BodyTimeout(30.0), 408, "body_timeout"),
        (DuplicateRequest("r"), 409, "duplicate_request"),
        (BodyTooLarge(10), 413, "body_too_large"),
        (UnsupportedMediaType("no"), 415, "unsupported_media_type"),
        (QueueFull("m", waiting=2, retry_after_seconds=1.5), 429, "queue_full"),
        (ModelBroken("the logits are not finite"), 500, "invalid_logits"),
        (ModelUnavailable("m", "why"), 503, "model_unavailable"),
        (NoNodes(), 503, "model_unavailable"),
        (RequestLost("r", attempts=2, reason="why"), 503, "request_lost"),
        (StateUnavailable("full"), 503, "state_unavailable"),
        (LeadershipLost("another one leads"), 503, "leadership_lost"),
        (ServerStopping(), 503, "server_stopping"),
        (DeadlineExceeded("r", deadline_seconds=1.0, state="waiting"), 504, "deadline_exceeded"),
        (HTTPException(404), 404, "unknown_url"),
        (HTTPException(405), 405, "method_not_allowed"),
    ],
)
def test_each_error_has_its_status_and_openais_form(
    error: Exception, status: int, code: str | None
) -> None:
    reply = error_reply(error, path="/p")

    assert (reply.status, reply.code) == (status, code)
    assert body_of(error)["code"] == code
    assert body_of(error)["message"]
    assert is_expected(error)


def test_a_bad_request_names_parameter_and_code() -> None:
    error = body_of(InvalidRequest("too long", param="messages", code="context_length_exceeded"))

    assert error == {
        "message": "too long",
        "type": "invalid_request_error",
        "param": "messages",
        "code": "context_length_exceeded",
    }


def test_an_unknown_model_is_the_parameter_model() -> None:
    assert body_of(UnknownModel("m", known=["a"]))["param"] == "model"


@pytest.mark.parametrize(("seconds", "header"), [(0.0, "1"), (1.5, "2"), (30.0, "30")])
def test_a_full_queue_says_when_to_ask_again(seconds: float, header: str) -> None:
    error = QueueFull("m", waiting=2, retry_after_seconds=seconds)

    assert error_reply(error).headers == {"retry-after": header}


def test_what_may_pass_says_when_to_ask_again_and_what_will_not_does_not() -> None:
    assert "retry-after" in error_reply(ModelUnavailable("m", "why")).headers
    assert error_reply(InvalidRequest("bad")).headers == {}


def test_an_unexpected_error_tells_nothing_of_the_inside() -> None:
    error = KeyError("/home/secret")

    reply = error_reply(error)

    assert reply.status == 500
    assert b"secret" not in reply.body
    assert not is_expected(error)
