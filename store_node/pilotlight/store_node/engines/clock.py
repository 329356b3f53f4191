"""Time as engines see it, so that tests can turn it by hand."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """Tells the time and lets it pass."""

    def now(self) -> float:
        """Return monotonic seconds."""
        ...

    def wait_until(self, at: float) -> None:
        """Return when `now()` has reached `at`; at once if it has."""
        ...


class MonotonicClock:
    """The process's own clock."""

    def now(self) -> float:
        """Return monotonic seconds."""
        return time.monotonic()

    def wait_until(self, at: float) -> None:
        """Sleep until `at`."""
        while (seconds := at - time.monotonic()) > 0:
            time.sleep(seconds)
