"""Begins to lead, goes on leading, and knows when to stop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import structlog

from pilotlight.scheduler.errors import LeadershipLost, StateUnavailable
from pilotlight.scheduler.store import HeldBy, StateStore

RENEWALS_PER_LEASE = 4
_LONGEST_WAIT_SECONDS = 1.0

log = structlog.get_logger(__name__)


async def become_leader(store: StateStore, *, holder: str, lease_seconds: float) -> int:
    """Return the new epoch, once no other controller leads."""
    was_told = False
    while True:
        found = await store.acquire(holder, lease_seconds)
        if not isinstance(found, HeldBy):
            return found
        if not was_told:
            log.warning("another controller leads; waiting", holder=found.holder)
            was_told = True
        await asyncio.sleep(min(max(found.remaining_seconds, 0.05), _LONGEST_WAIT_SECONDS))


async def keep_leading(
    store: StateStore, *, lease_seconds: float, clock: Callable[[], float]
) -> None:
    """Renew the lease until cancelled.

    Raises:
        LeadershipLost: another controller leads, or will before the state can be reached.
    """
    pause = lease_seconds / RENEWALS_PER_LEASE
    renewed_at = clock()
    while True:
        await asyncio.sleep(pause)
        asked_at = clock()
        try:
            async with asyncio.timeout(max(renewed_at + lease_seconds - pause - asked_at, 0.0)):
                await store.renew()
            renewed_at = asked_at
        except StateUnavailable as exc:
            log.warning("lease not renewed", reason=str(exc))
        except TimeoutError:
            log.warning("lease not renewed", reason="the state does not answer")
        if clock() - renewed_at + pause >= lease_seconds:
            raise LeadershipLost(f"the lease could not be renewed for {lease_seconds:g} s")
