"""Bounds on what somebody's configuration may cost a process that others need."""

from __future__ import annotations

import resource
import signal
from collections.abc import Generator
from contextlib import contextmanager
from types import FrameType

from pilotlight.native_loader.memory.memory_limits import data_bytes

_AGAIN_SECONDS = 0.1


class OutOfTime(BaseException):
    """A block takes too long; no error, so that whoever expects errors lets it pass."""


@contextmanager
def bounded(*, seconds: float, memory_bytes: int) -> Generator[None]:
    """Let the block take no longer, and allocate no more at once; for a main thread.

    Raises:
        OutOfTime: it takes longer.
        MemoryError: it allocates more; libraries may raise errors of their own.
    """

    def end(_: int, __: FrameType | None) -> None:
        raise OutOfTime(f"took longer than {seconds:g} seconds")

    limits = resource.getrlimit(resource.RLIMIT_DATA)
    handler = signal.signal(signal.SIGALRM, end)
    # Again and again: what is raised while an object is finalised is lost.
    timer = signal.setitimer(signal.ITIMER_REAL, seconds, _AGAIN_SECONDS)
    resource.setrlimit(resource.RLIMIT_DATA, (data_bytes() + memory_bytes, limits[1]))
    try:
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, limits)
        signal.signal(signal.SIGALRM, handler)
        signal.setitimer(signal.ITIMER_REAL, *timer)
