from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping

import pytest

from pilotlight.scheduler.gateway.routing.testing import RoutingCase
from pilotlight.scheduler.testing.virtual_time import VirtualTimeLoop


def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Let an hour of waiting take no time."""
    return {"virtual": VirtualTimeLoop}


@pytest.fixture
async def case() -> AsyncIterator[RoutingCase]:
    """Yield a router that serves model "m"."""
    async with RoutingCase.running() as case:
        yield case
