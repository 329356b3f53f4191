"""Server-sent events."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

import msgspec

from pilotlight.scheduler.gateway.http.exchange import HttpExchange

_HEADERS = {
    "content-type": "text/event-stream; charset=utf-8",
    "cache-control": "no-cache",
    # Proxies like nginx would hold events back to send them together.
    "x-accel-buffering": "no",
}
_DONE = b"data: [DONE]\n\n"
_COMMENT = b": keep-alive\n\n"


class EventStream:
    """A response of events.

    It is not started before there is something to say, so that an error until
    then has a status of its own.
    """

    def __init__(self, exchange: HttpExchange) -> None:
        self._exchange = exchange
        self._encoder = msgspec.json.Encoder()
        self._lock = asyncio.Lock()
        self._written_at = asyncio.get_running_loop().time()

    async def write(self, events: Iterable[msgspec.Struct]) -> None:
        """Send some events at once."""
        encode = self._encoder.encode
        await self._write(b"".join(b"data: %b\n\n" % encode(event) for event in events))

    async def finish(self) -> None:
        """Send the event that ends a complete stream, and end the response."""
        await self._write(_DONE, is_last=True)

    async def keep_alive(self) -> None:
        """Send a comment whenever nothing was sent for a while; runs until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            due_at = self._written_at + self._exchange.limits.keep_alive_seconds
            if loop.time() < due_at:
                await asyncio.sleep(due_at - loop.time())
            else:
                await self._write(_COMMENT)

    async def _write(self, data: bytes, *, is_last: bool = False) -> None:
        # A comment and an event may want to start the response at once.
        async with self._lock:
            if not self._exchange.has_started:
                await self._exchange.start(200, _HEADERS)
            self._written_at = asyncio.get_running_loop().time()
            await self._exchange.send(
                {"type": "http.response.body", "body": data, "more_body": not is_last}
            )
