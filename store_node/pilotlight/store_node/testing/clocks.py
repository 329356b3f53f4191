"""A clock that is turned by hand."""

from __future__ import annotations


class FakeClock:
    """Satisfies `engines.clock.Clock`: waiting takes no time, but moves it."""

    def __init__(self, now: float = 0.0) -> None:
        self._now = now

    def now(self) -> float:
        """Return the seconds that were waited or added."""
        return self._now

    def wait_until(self, at: float) -> None:
        """Let the time pass until `at`."""
        self._now = max(self._now, at)

    def advance(self, seconds: float) -> None:
        """Let time pass that nobody waited for."""
        self._now += seconds
