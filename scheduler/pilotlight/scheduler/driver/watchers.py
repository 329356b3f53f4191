"""Hands out what happens in the cluster to whoever watches."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import dataclass

from pilotlight.scheduler.core.actions import Publish

MOST_UNREAD = 1000
"""Events kept for a watcher that does not read; older ones are dropped."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Occurrence:
    """Something that happened."""

    at: float
    """Seconds since 1970."""
    what: Publish


class Watchers:
    """Whoever watches at the moment."""

    def __init__(self) -> None:
        self._queues: set[asyncio.Queue[Occurrence]] = set()

    def publish(self, what: Publish, *, at: float) -> None:
        """Tell all."""
        for queue in self._queues:
            if queue.full():
                queue.get_nowait()
            queue.put_nowait(Occurrence(at=at, what=what))

    async def watch(self) -> AsyncGenerator[Occurrence, None]:
        """Yield what happens from now on, until the caller stops."""
        queue: asyncio.Queue[Occurrence] = asyncio.Queue(MOST_UNREAD)
        self._queues.add(queue)
        try:
            while True:
                yield await queue.get()
        finally:
            self._queues.discard(queue)
