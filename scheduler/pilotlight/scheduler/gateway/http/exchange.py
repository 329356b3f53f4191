"""One HTTP request and the response to it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from starlette.datastructures import Headers
from starlette.types import Message, Receive, Scope, Send

from pilotlight.scheduler.errors import (
    BodyTimeout,
    BodyTooLarge,
    ClientGone,
    UnsupportedMediaType,
)
from pilotlight.scheduler.gateway.http.limits import HttpLimits

CLOSE_CONNECTION = "pilotlight.close_connection"
"""The key of a function in the scope's state: the connection closes after this response."""

_EXCHANGE = "pilotlight.exchange"


class HttpExchange:
    """Reads one request and writes its response, within limits."""

    def __init__(
        self,
        scope: Scope,
        receive: Receive,
        send: Send,
        *,
        limits: HttpLimits,
        request_id: str,
    ) -> None:
        self.scope = scope
        self.receive = receive
        self.headers = Headers(scope=scope)
        self.limits = limits
        self.request_id = request_id
        """Ours, unlike the one that the client may have given it."""
        self.model = ""
        """The model that the client asked for, once that is known."""
        self.status = 0
        """0 until a response has been started."""
        self.error = ""
        """What went wrong, in a word."""
        self._send = send
        scope[_EXCHANGE] = self

    @classmethod
    def of(cls, scope: Scope) -> HttpExchange:
        """Return the exchange that a scope belongs to."""
        exchange = scope[_EXCHANGE]
        assert isinstance(exchange, HttpExchange), "the application puts it there"
        return exchange

    @property
    def has_started(self) -> bool:
        """True once the response's status is out."""
        return self.status != 0

    async def read_json(self) -> bytes:
        """Return the body.

        Raises:
            UnsupportedMediaType: it is not declared as JSON. A web page can send
                other types to a server on loopback without asking it.
            BodyTooLarge: it is larger than the limit, or declared so.
            BodyTimeout: it does not arrive in time.
            ClientGone: it never will.
        """
        media_type = self.headers.get("content-type", "").partition(";")[0].strip().lower()
        if media_type != "application/json":
            raise UnsupportedMediaType("the content-type must be application/json")
        if self.headers.get("content-encoding", "identity") != "identity":
            raise UnsupportedMediaType("the body must not be compressed")
        declared = self.headers.get("content-length", "0")
        if int(declared) > self.limits.body_bytes:
            raise BodyTooLarge(self.limits.body_bytes)
        try:
            async with asyncio.timeout(self.limits.body_seconds):
                return await self._read_body()
        except TimeoutError as exc:
            raise BodyTimeout(self.limits.body_seconds) from exc

    async def respond(
        self, status: int, body: bytes, *, headers: Mapping[str, str] | None = None
    ) -> None:
        """Send a JSON response."""
        await self.start(status, {"content-length": str(len(body)), **(headers or {})})
        await self.send({"type": "http.response.body", "body": body})

    async def respond_and_linger(self, status: int, body: bytes) -> None:
        """Send a JSON response, give the client a while to finish its body, and hang up."""
        await self.start(status, {"content-length": str(len(body)), "connection": "close"})
        await self.send({"type": "http.response.body", "body": body, "more_body": True})
        try:
            async with asyncio.timeout(self.limits.linger_seconds):
                while (await self.receive()).get("more_body", False):
                    pass
        except TimeoutError:
            pass
        await self.send({"type": "http.response.body"})

    async def start(self, status: int, headers: Mapping[str, str]) -> None:
        """Send the response's status and headers."""
        named = {"content-type": "application/json", **headers}
        raw = [(name.encode(), value.encode("latin-1")) for name, value in named.items()]
        await self.send({"type": "http.response.start", "status": status, "headers": raw})

    async def send(self, message: Message) -> None:
        """Send a part of the response.

        Raises:
            ClientGone: nobody receives it.
        """
        if message["type"] == "http.response.start":
            self.status = message["status"]
        try:
            await self._send(message)
        except OSError as exc:
            raise ClientGone from exc

    async def break_off(self, error: bytes) -> None:
        """End a stream of events with an error as its last one, and hang up."""
        self._close_after_response()
        data = b"data: %b\n\n" % error
        await self.send({"type": "http.response.body", "body": data, "more_body": False})

    def _close_after_response(self) -> None:
        close = self.scope.get("state", {}).get(CLOSE_CONNECTION)
        if close is not None:
            close()

    async def _read_body(self) -> bytes:
        body = bytearray()
        while True:
            message = await self.receive()
            if message["type"] == "http.disconnect":
                raise ClientGone
            body += message.get("body", b"")
            if len(body) > self.limits.body_bytes:
                raise BodyTooLarge(self.limits.body_bytes)
            if not message.get("more_body", False):
                return bytes(body)
