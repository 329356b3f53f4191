"""The core's timers in an event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from pilotlight.store_node.core.events import TimerFired, TimerKey


class Timers:
    """At most one timer per key."""

    def __init__(self, post: Callable[[TimerFired], None]) -> None:
        self._post = post
        self._handles: dict[TimerKey, asyncio.TimerHandle] = {}

    def set(self, key: TimerKey, at: float) -> None:
        """Have `key` fire at that time of the loop."""
        self.clear(key)
        loop = asyncio.get_running_loop()
        self._handles[key] = loop.call_at(at, self._fire, key)

    def clear(self, key: TimerKey) -> None:
        """Forget a timer."""
        handle = self._handles.pop(key, None)
        if handle is not None:
            handle.cancel()

    def clear_all(self) -> None:
        """Forget all timers."""
        for key in list(self._handles):
            self.clear(key)

    def _fire(self, key: TimerKey) -> None:
        del self._handles[key]
        self._post(TimerFired(key=key))
