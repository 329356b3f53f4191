"""Begins to lead, goes on leading, and ends where another controller leads."""

from __future__ import annotations

import asyncio

import structlog

from pilotlight.scheduler.errors import StateUnavailable
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


async def keep_leading(store: StateStore, *, lease_seconds: float) -> None:
    """Renew the lease until cancelled.

    While the state can't be reached, or its disk is full, this process goes on:
    replicas serve, and nothing new starts, since whatever starts is written
    first. Another controller may begin to lead meanwhile; nodes then take
    nothing more from this one, which ends when it learns of it.

    Raises:
        LeadershipLost: another controller leads.
    """
    is_renewed = True
    while True:
        await asyncio.sleep(lease_seconds / RENEWALS_PER_LEASE)
        reason = await _renew(store, patience_seconds=lease_seconds)
        if reason and is_renewed:
            log.warning("lease not renewed; nothing new starts until it is", reason=reason)
        elif not reason and not is_renewed:
            log.info("lease renewed")
        is_renewed = not reason


async def _renew(store: StateStore, *, patience_seconds: float) -> str:
    """Return why the lease could not be renewed, or nothing once it is."""
    renewal = asyncio.ensure_future(store.renew())
    try:
        done, _ = await asyncio.wait([renewal], timeout=patience_seconds)
        if not done:
            log.warning("the state does not answer; nothing new starts until it does")
        await renewal
    except StateUnavailable as exc:
        return str(exc)
    finally:
        renewal.cancel()
    return ""
