"""Bounds on what somebody's configuration may cost a process that others need."""

from __future__ import annotations

import resource
import signal
from collections.abc import Generator
from contextlib import contextmanager
from types import FrameType

from pilotlight.native_loader.memory_limits import data_bytes


@contextmanager
def bounded(*, seconds: float, memory_bytes: int) -> Generator[None]:
    """Let the block take no longer, and allocate no more at once; for a main thread.

    Raises:
        TimeoutError: it takes longer.
        MemoryError: it allocates more; libraries may raise errors of their own.
    """

    def end(_: int, __: FrameType | None) -> None:
        raise TimeoutError(f"took longer than {seconds:g} seconds")

    limits = resource.getrlimit(resource.RLIMIT_DATA)
    handler = signal.signal(signal.SIGALRM, end)
    timer = signal.setitimer(signal.ITIMER_REAL, seconds)
    resource.setrlimit(resource.RLIMIT_DATA, (data_bytes() + memory_bytes, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, limits)
        signal.setitimer(signal.ITIMER_REAL, *timer)
        signal.signal(signal.SIGALRM, handler)
