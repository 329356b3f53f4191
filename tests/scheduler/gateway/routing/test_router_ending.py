"""A router that is closed."""

from __future__ import annotations

import asyncio

from pilotlight.scheduler.errors import ServerStopping
from pilotlight.scheduler.gateway.routing.testing import RoutingCase


async def test_closing_ends_what_runs_and_what_waits() -> None:
    async with RoutingCase.running() as case:
        case.add("r1")
        running, waiting = case.ask("q1"), case.ask("q2")
        await case.settle()
        case.nodes.last.send(10)
        await case.settle()

    await asyncio.wait([running.task, waiting.task], timeout=1.0)

    assert running.ids == [10]
    for client in (running, waiting):
        assert isinstance(client.error, ServerStopping)
    assert not any(attempt.is_open for attempt in case.nodes.attempts)


async def test_a_closed_router_takes_nothing_new() -> None:
    async with RoutingCase.running() as case:
        case.add("r1")

    client = case.ask()
    await client.task

    assert isinstance(client.error, ServerStopping)
    assert case.nodes.attempts == []
