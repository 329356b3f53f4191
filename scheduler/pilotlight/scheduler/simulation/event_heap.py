"""A virtual clock: what happens next, in integer microseconds."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable
from typing import Any

MICROSECONDS = 1_000_000


class EventHeap:
    """Runs calls in the order of their times; those of one time in the order they were added."""

    def __init__(self) -> None:
        self._heap: list[tuple[int, int, Callable[[Any], None], Any]] = []
        self._next_seq = 0
        self._now = 0

    @property
    def now(self) -> float:
        """Seconds since the beginning."""
        return self._now / MICROSECONDS

    def call_at(self, at: float, function: Callable[[Any], None], argument: Any) -> None:
        """Call `function(argument)` at a time in seconds, not before; at once if it is over.

        An infinite time never comes.
        """
        if at == math.inf:
            return
        when = max(round(at * MICROSECONDS), self._now)
        # Who is woken a fraction too early asks to be woken again, for ever.
        if when / MICROSECONDS < at:
            when += 1
        heapq.heappush(self._heap, (when, self._next_seq, function, argument))
        self._next_seq += 1

    def run_until(self, end: float) -> None:
        """Run all that happens up to `end` seconds."""
        last = round(end * MICROSECONDS)
        while self._heap and self._heap[0][0] <= last:
            self._now, _, function, argument = heapq.heappop(self._heap)
            function(argument)
        self._now = max(self._now, last)

    def run_next(self, end: float) -> bool:
        """Run what happens next, unless that is after `end` seconds; return whether it did."""
        if not self._heap or self._heap[0][0] > end * MICROSECONDS:
            return False
        self._now, _, function, argument = heapq.heappop(self._heap)
        function(argument)
        return True
