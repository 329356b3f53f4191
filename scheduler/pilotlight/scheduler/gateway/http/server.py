"""The HTTP server around the application."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Generator
from contextlib import contextmanager
from functools import partial

import structlog
import uvicorn

from pilotlight.process.ports import Address, listen
from pilotlight.scheduler.gateway.http.app import HttpApp
from pilotlight.scheduler.gateway.http.protocol import PatientProtocol

_log: structlog.typing.FilteringBoundLogger = structlog.get_logger()

_FAREWELL_SECONDS = 1.0
"""How long clients have to take the last event of a stream that is cut."""


class HttpServer:
    """Serves an application in the running event loop; installs no signal handlers.

    It listens from `start` to `stop`. `address` has the port that it really uses.
    """

    def __init__(self, app: HttpApp, address: Address | socket.socket) -> None:
        self._app = app
        self._where = address
        self._server: _Server | None = None
        self._serving: asyncio.Task[None] | None = None
        self.address: Address | None = None

    async def start(self) -> None:
        """Listen, and return once connections are taken.

        Raises:
            AddressUnavailable: another process listens there, or it may not be used.
        """
        opened = self._where if isinstance(self._where, socket.socket) else listen(self._where)
        host, port = opened.getsockname()[:2]
        self.address = Address(host=host, port=port)
        self._server = _Server(_config(self._app))
        self._serving = asyncio.create_task(self._server.serve(sockets=[opened]))
        await self._server.wait_started()
        _log.info("http server listens", address=str(self.address))

    async def stop(self, *, grace_seconds: float = 5.0) -> None:
        """Take no more connections, let requests end for a while, then cut them."""
        if self._server is None or self._serving is None:
            return
        self._server.should_exit = True
        _, late = await asyncio.wait([self._serving], timeout=grace_seconds)
        if late:
            if len(self._app.attendances) > 0:
                _log.warning("http requests cut", requests=len(self._app.attendances))
            self._app.attendances.cut()
            _, late = await asyncio.wait([self._serving], timeout=_FAREWELL_SECONDS)
        if late:
            self._server.abort_connections()
            _, late = await asyncio.wait([self._serving], timeout=_FAREWELL_SECONDS)
        # What then still runs is a cleanup that hangs, and waits for no client.
        self._server.force_exit = bool(late)
        await self._serving


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._has_started = asyncio.Event()

    async def wait_started(self) -> None:
        await self._has_started.wait()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._has_started.set()

    @contextmanager
    def capture_signals(self) -> Generator[None]:
        """Leave signals to the process that the server is a part of."""
        yield

    def abort_connections(self) -> None:
        """Cut every connection, whatever its buffers hold."""
        for connection in list(self.server_state.connections):
            connection.transport.abort()


def _config(app: HttpApp) -> uvicorn.Config:
    limits = app.limits
    return uvicorn.Config(
        app,
        http=partial(PatientProtocol, limits=limits),  # type: ignore[arg-type] # called as a class
        ws="none",
        lifespan="off",
        interface="asgi3",
        log_config=None,
        log_level="warning",
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=limits.idle_seconds,
        h11_max_incomplete_event_size=limits.header_bytes,
    )
