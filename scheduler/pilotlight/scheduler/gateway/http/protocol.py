"""What the gateway adds to uvicorn's HTTP protocol: patience has an end."""

from __future__ import annotations

import asyncio
from typing import Any

import h11
from uvicorn.config import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from pilotlight.scheduler.gateway.http.exchange import CLOSE_CONNECTION
from pilotlight.scheduler.gateway.http.limits import HttpLimits


class PatientProtocol(H11Protocol):
    """Cuts a client that sends its headers, or takes its answer, too slowly.

    The application then sees the client leave. It may have a connection closed
    after the response, by the function in its scope's state.
    """

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
        *,
        limits: HttpLimits,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self.app_state = {**app_state, CLOSE_CONNECTION: self.shutdown}
        self._limits = limits
        self._header_timer: asyncio.TimerHandle | None = None
        self._stall_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for headers."""
        super().connection_made(transport)
        self._await_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait for nothing any more."""
        self._stop_header_timer()
        self._stop_stall_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Stop waiting once headers are complete; wait again in the middle of the next ones."""
        super().data_received(data)
        if self.conn.their_state is not h11.IDLE:
            self._stop_header_timer()
        elif self._header_timer is None:
            self._await_headers()

    def pause_writing(self) -> None:
        """Begin to wait for the client to take what lies in the buffer."""
        super().pause_writing()
        self._stall_timer = self.loop.call_later(self._limits.stall_seconds, self._cut)

    def resume_writing(self) -> None:
        """Stop waiting: it has taken enough."""
        self._stop_stall_timer()
        super().resume_writing()

    def _await_headers(self) -> None:
        self._header_timer = self.loop.call_later(self._limits.header_seconds, self._cut)

    def _cut(self) -> None:
        self.transport.abort()

    def _stop_header_timer(self) -> None:
        if self._header_timer is not None:
            self._header_timer.cancel()
            self._header_timer = None

    def _stop_stall_timer(self) -> None:
        if self._stall_timer is not None:
            self._stall_timer.cancel()
            self._stall_timer = None
