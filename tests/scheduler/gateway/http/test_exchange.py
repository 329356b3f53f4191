from __future__ import annotations

import asyncio
import itertools
from typing import Any

import pytest
from starlette.types import Message

from pilotlight.scheduler.errors import (
    BodyTimeout,
    BodyTooLarge,
    ClientGone,
    UnsupportedMediaType,
)
from pilotlight.scheduler.gateway.http.exchange import CLOSE_CONNECTION, HttpExchange
from pilotlight.scheduler.gateway.http.limits import HttpLimits

JSON = ("content-type", "application/json")
LIMITS = HttpLimits(body_bytes=10, body_seconds=0.01, linger_seconds=0.01)


class Wire:
    """What an exchange receives and sends."""

    def __init__(self, *chunks: bytes | None) -> None:
        self._chunks = iter(chunks)
        self.received = 0
        self.sent: list[Message] = []

    async def receive(self) -> Message:
        chunk = next(self._chunks, None)
        self.received += 1
        if chunk is None:
            return {"type": "http.disconnect"}
        return {"type": "http.request", "body": chunk, "more_body": not chunk.endswith(b".")}

    async def send(self, message: Message) -> None:
        self.sent.append(message)

    def exchange(self, *headers: tuple[str, str], **state: Any) -> HttpExchange:
        raw = [(name.encode(), value.encode()) for name, value in headers]
        scope = {"type": "http", "headers": raw, "state": state}
        return HttpExchange(scope, self.receive, self.send, limits=LIMITS, request_id="req-1")


async def test_a_body_within_the_limit_is_read() -> None:
    wire = Wire(b"12345", b"6789.")

    assert await wire.exchange(JSON).read_json() == b"123456789."


async def test_a_body_that_is_declared_too_large_is_not_read() -> None:
    wire = Wire(b"1.")

    with pytest.raises(BodyTooLarge, match="larger than 10 bytes"):
        await wire.exchange(JSON, ("content-length", "11")).read_json()

    assert wire.received == 0


async def test_a_body_without_an_end_is_read_no_further_than_the_limit() -> None:
    wire = Wire(*itertools.repeat(b"12345", 1000))

    with pytest.raises(BodyTooLarge):
        await wire.exchange(JSON).read_json()

    assert wire.received == 3  # 5, 10, and 15 bytes


async def test_a_client_that_leaves_in_its_body_is_gone() -> None:
    with pytest.raises(ClientGone):
        await Wire(b"123").exchange(JSON).read_json()


async def test_a_body_that_does_not_arrive_is_given_up() -> None:
    exchange = Wire().exchange(JSON)
    exchange.receive = _never

    with pytest.raises(BodyTimeout, match=r"within 0\.01 s"):
        await exchange.read_json()


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [("content-type", "text/plain")],
        [("content-type", "application/x-www-form-urlencoded")],
        [JSON, ("content-encoding", "gzip")],
    ],
)
async def test_only_plain_json_is_taken(headers: list[tuple[str, str]]) -> None:
    with pytest.raises(UnsupportedMediaType):
        await Wire(b"{}.").exchange(*headers).read_json()


async def test_a_character_set_is_no_other_type() -> None:
    exchange = Wire(b"{}.").exchange(("content-type", "Application/JSON; charset=utf-8"))

    assert await exchange.read_json() == b"{}."


async def test_a_response_has_its_length_and_type() -> None:
    wire = Wire()

    await wire.exchange().respond(429, b"{}", headers={"retry-after": "2"})

    start, body = wire.sent
    assert start["status"] == 429
    assert dict(start["headers"]) == {
        b"content-type": b"application/json",
        b"content-length": b"2",
        b"retry-after": b"2",
    }
    assert body == {"type": "http.response.body", "body": b"{}"}


async def test_a_refused_body_is_drained_behind_the_whole_answer() -> None:
    wire = Wire(b"12345", b"12345", b"1.")

    await wire.exchange().respond_and_linger(413, b"{}")

    assert wire.received == 3
    assert (b"connection", b"close") in wire.sent[0]["headers"]
    assert [message.get("body", b"") for message in wire.sent[1:]] == [b"{}", b""]


async def test_a_refused_body_is_not_drained_for_ever() -> None:
    wire = Wire()
    exchange = wire.exchange()
    exchange.receive = _never

    await exchange.respond_and_linger(413, b"{}")

    assert wire.sent[-1] == {"type": "http.response.body"}


async def test_a_broken_stream_ends_with_its_error_and_its_connection() -> None:
    closed: list[bool] = []
    wire = Wire()
    exchange = wire.exchange(**{CLOSE_CONNECTION: lambda: closed.append(True)})

    await exchange.break_off(b'{"error":{}}')

    assert wire.sent[-1]["body"] == b'data: {"error":{}}\n\n'
    assert wire.sent[-1]["more_body"] is False
    assert closed == [True]


async def test_what_nobody_receives_means_that_the_client_is_gone() -> None:
    async def fail(message: Message) -> None:
        raise BrokenPipeError

    wire = Wire()
    scope = {"type": "http", "headers": []}
    exchange = HttpExchange(scope, wire.receive, fail, limits=LIMITS, request_id="req-1")

    with pytest.raises(ClientGone):
        await exchange.respond(200, b"{}")


async def _never() -> Message:
    await asyncio.Event().wait()
    raise AssertionError
