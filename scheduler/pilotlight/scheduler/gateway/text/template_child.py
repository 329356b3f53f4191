"""The gateway's end of the process that renders chat templates."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from asyncio.subprocess import DEVNULL, Process
from contextlib import suppress

from pilotlight.scheduler.gateway.text.template_messages import ANSWER_BYTES

START_SECONDS = 30.0
"""It takes a tenth of one, but for a machine that is busy with other things."""
EXIT_SECONDS = 1.0

_MODULE = "pilotlight.scheduler.gateway.text.template_process"
_CHUNK_BYTES = 256 << 10


class TemplateChild:
    """One process, started and ready; it ends with this one, or by `end`.

    It is tied to the thread that starts it, so the event loop's thread must be
    one that lives as long as the process: its main thread.
    """

    def __init__(self, process: Process, connection: socket.socket) -> None:
        self._process = process
        self._connection = connection

    @classmethod
    async def start(cls) -> TemplateChild:
        """Return a new one.

        Raises:
            OSError: it can't be started, or is not ready in time.
        """
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        try:
            with theirs:
                process = await asyncio.create_subprocess_exec(
                    *(sys.executable, "-P", "-m", _MODULE, str(os.getpid())),
                    stdin=theirs.fileno(),
                    stdout=theirs.fileno(),
                    # A template's doings are no news for whoever watches the controller.
                    stderr=DEVNULL,
                )
        except BaseException:
            ours.close()
            raise
        child = cls(process, ours)
        try:
            async with asyncio.timeout(START_SECONDS):
                await child._read_line()
        except BaseException:
            await child.end()
            raise
        return child

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    async def ask(self, line: bytes) -> bytes:
        """Return the line that answers a line; after a cancellation, only `end` may follow.

        Raises:
            TimeoutError: it was killed for the time that it took.
            OSError: it has ended, or says more than it may.
        """
        loop = asyncio.get_running_loop()
        try:
            await loop.sock_sendall(self._connection, line + b"\n")
            return await self._read_line()
        except ConnectionError:
            if await self._exit_code() == -signal.SIGXCPU:
                raise TimeoutError from None
            raise

    async def end(self) -> None:
        """Kill it and wait until it is gone; may be called again."""
        self._connection.close()
        if self._process.returncode is None:
            with suppress(ProcessLookupError):
                self._process.kill()
        await self._process.wait()

    async def _exit_code(self) -> int | None:
        """Return how a process that broke off has ended; None if it goes on all the same."""
        try:
            # Before a signal: sending one would take the exit code from who waits for it.
            async with asyncio.timeout(EXIT_SECONDS):
                return await self._process.wait()
        except TimeoutError:
            return None

    async def _read_line(self) -> bytes:
        loop = asyncio.get_running_loop()
        line = bytearray()
        while not line.endswith(b"\n"):
            chunk = await loop.sock_recv(self._connection, _CHUNK_BYTES)
            if not chunk or len(line) > ANSWER_BYTES:
                raise ConnectionResetError("the process for chat templates broke off")
            line += chunk
        return bytes(line)
