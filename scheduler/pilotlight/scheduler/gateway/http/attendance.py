"""Work that lasts no longer than its client stays."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Coroutine
from contextlib import asynccontextmanager
from types import TracebackType

from starlette.types import Receive

from pilotlight.scheduler.errors import ClientGone, SchedulerError, ServerStopping


@asynccontextmanager
async def alongside(work: Coroutine[object, object, None]) -> AsyncGenerator[None]:
    """Run some work beside the block; it is cancelled when the block ends."""
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])
    if not task.cancelled():
        task.result()


class Attendances:
    """All the work that clients wait for, so that a server which stops can cut it."""

    def __init__(self) -> None:
        self._open: dict[Attendance, None] = {}
        self._is_cut = False

    def __len__(self) -> int:
        return len(self._open)

    def attend(self, receive: Receive) -> Attendance:
        """Return a context manager around work for the client behind `receive`.

        The request's body must have been read.
        """
        return Attendance(self, receive)

    def cut(self) -> None:
        """End all work, and what comes later, with ServerStopping."""
        self._is_cut = True
        for attendance in list(self._open):
            attendance.end(ServerStopping())

    def enter(self, attendance: Attendance) -> None:
        """Take part."""
        if self._is_cut:
            raise ServerStopping
        self._open[attendance] = None

    def leave(self, attendance: Attendance) -> None:
        """Stop taking part."""
        del self._open[attendance]


class Attendance:
    """Cancels a block of work when its client leaves, as asyncio.timeout does in time.

    Raises:
        ClientGone: the client has left.
        ServerStopping: the server has been cut.
    """

    def __init__(self, attendances: Attendances, receive: Receive) -> None:
        self._attendances = attendances
        self._receive = receive
        self._error: SchedulerError | None = None

    async def __aenter__(self) -> None:
        task = asyncio.current_task()
        assert task is not None, "asyncio code runs in a task"
        self._attendances.enter(self)
        self._task = task
        self._cancellations = task.cancelling()
        self._watch = asyncio.create_task(self._watch_client())

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._watch.cancel()
        self._attendances.leave(self)
        if self._error is None:
            return
        is_ours_alone = self._task.uncancel() <= self._cancellations
        if is_ours_alone and (kind is None or issubclass(kind, asyncio.CancelledError)):
            raise self._error from value

    def end(self, error: SchedulerError) -> None:
        """Cancel the work; the block raises this error instead."""
        if self._error is None:
            self._error = error
            self._task.cancel()

    async def _watch_client(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self.end(ClientGone())
