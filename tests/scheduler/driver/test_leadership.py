from __future__ import annotations

import asyncio
from typing import Any

import pytest
from structlog.testing import capture_logs

from pilotlight.scheduler.driver.leadership import become_leader, keep_leading
from pilotlight.scheduler.errors import LeadershipLost, StateUnavailable
from pilotlight.scheduler.store import HeldBy

LEASE_SECONDS = 5.0


class Lease:
    """The part of a `StateStore` that is about leading."""

    def __init__(self, *, held_until: float = 0.0) -> None:
        self.held_until = held_until
        self.renewals: list[float] = []
        self.failure: Exception | None = None
        self.hangs = False
        self.unanswered = 0

    async def acquire(self, holder: str, lease_seconds: float) -> int | HeldBy:
        left = self.held_until - now()
        return HeldBy(holder="host:1", remaining_seconds=left) if left > 0 else 7

    async def renew(self) -> None:
        if self.hangs:
            self.unanswered += 1
            try:
                await asyncio.Event().wait()
            finally:
                self.unanswered -= 1
        if self.failure is not None:
            raise self.failure
        self.renewals.append(now())


def now() -> float:
    return asyncio.get_running_loop().time()


async def lead(lease: Lease) -> None:
    store: Any = lease
    await keep_leading(store, lease_seconds=LEASE_SECONDS)


async def become(lease: Lease) -> int:
    store: Any = lease
    return await become_leader(store, holder="me", lease_seconds=LEASE_SECONDS)


async def test_nobody_leads_so_this_one_does_at_once() -> None:
    assert await become(Lease()) == 7
    assert now() == 0.0


async def test_it_waits_until_the_lease_of_another_has_ended_and_says_so_once() -> None:
    with capture_logs() as logged:
        epoch = await become(Lease(held_until=30.0))

    assert epoch == 7
    assert now() == pytest.approx(30.0, abs=1.0)
    assert [entry["event"] for entry in logged] == ["another controller leads; waiting"]
    assert logged[0]["holder"] == "host:1"


async def test_the_lease_is_renewed_well_before_it_ends() -> None:
    lease = Lease()
    leading = asyncio.ensure_future(lead(lease))
    await asyncio.sleep(60.0)
    leading.cancel()

    gaps = [b - a for a, b in zip([0.0, *lease.renewals], lease.renewals, strict=False)]
    assert max(gaps) <= LEASE_SECONDS / 2


async def test_a_state_that_can_t_be_reached_for_a_moment_costs_nothing() -> None:
    lease = Lease()
    leading = asyncio.ensure_future(lead(lease))
    await asyncio.sleep(10.0)
    lease.failure = StateUnavailable("locked")
    await asyncio.sleep(2.0)
    lease.failure = None
    await asyncio.sleep(10.0)

    assert not leading.done()
    leading.cancel()


async def test_it_goes_on_while_the_state_can_t_be_written_and_says_so_once() -> None:
    lease = Lease()
    leading = asyncio.ensure_future(lead(lease))
    await asyncio.sleep(10.0)
    lease.failure = StateUnavailable("database or disk is full")

    with capture_logs() as logged:
        await asyncio.sleep(3600.0)
        lease.failure = None
        await asyncio.sleep(10.0)

    assert not leading.done()
    assert [entry["event"] for entry in logged] == [
        "lease not renewed; nothing new starts until it is",
        "lease renewed",
    ]
    assert logged[0]["reason"] == "database or disk is full"
    leading.cancel()


async def test_it_waits_for_a_state_that_does_not_answer_and_asks_it_once() -> None:
    lease = Lease()
    leading = asyncio.ensure_future(lead(lease))
    await asyncio.sleep(10.0)
    lease.hangs = True

    with capture_logs() as logged:
        await asyncio.sleep(3600.0)

    assert [entry["event"] for entry in logged] == [
        "the state does not answer; nothing new starts until it does"
    ]
    assert lease.unanswered == 1
    leading.cancel()
    await asyncio.wait([leading])
    assert lease.unanswered == 0


async def test_it_stops_at_once_where_another_leads() -> None:
    lease = Lease()
    leading = asyncio.ensure_future(lead(lease))
    await asyncio.sleep(10.0)
    lease.failure = LeadershipLost("epoch 7 has ended; epoch 8 leads")

    await asyncio.wait([leading])

    assert str(leading.exception()) == "epoch 7 has ended; epoch 8 leads"
    assert now() < 10.0 + LEASE_SECONDS / 2
