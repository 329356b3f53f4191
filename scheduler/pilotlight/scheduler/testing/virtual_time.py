"""An event loop whose time is not the wall clock's."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from selectors import SelectorKey

_Ready = list[tuple["SelectorKey", int]]


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """Lets time pass only while nothing can run: what sleeps for an hour wakes at once.

    For code that waits for its own timers and tasks. What waits for a thread, a
    socket or a process would see its timeouts pass before that can answer.
    """

    def __init__(self) -> None:
        self._now = 0.0
        super().__init__(_JumpingSelector(self._jump))

    def time(self) -> float:
        """Return the virtual time: seconds that were slept so far."""
        return self._now

    def _jump(self, seconds: float) -> None:
        self._now += seconds


class _JumpingSelector(selectors.SelectSelector):
    """Asks the kernel without waiting, and lets the time pass instead."""

    def __init__(self, jump: Callable[[float], None]) -> None:
        super().__init__()
        self._jump = jump

    def select(self, timeout: float | None = None) -> _Ready:
        ready = super().select(0)
        if ready or timeout == 0:
            return ready
        if timeout is None:
            raise RuntimeError("nothing is left that could ever run: the test waits for itself")
        self._jump(timeout)
        return []
