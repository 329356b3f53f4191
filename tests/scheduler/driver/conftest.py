from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path

import pytest

from pilotlight.scheduler.driver.testing import DriverCase
from pilotlight.scheduler.testing.virtual_time import VirtualTimeLoop


def pytest_asyncio_loop_factories(
    item: pytest.Item,
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Let waiting take no time, but where there are real sockets and threads to wait for."""
    if item.get_closest_marker("integration"):
        return {"real": asyncio.new_event_loop}
    return {"virtual": VirtualTimeLoop}


@pytest.fixture
async def case(tmp_path: Path) -> AsyncIterator[DriverCase]:
    async with DriverCase.running(tmp_path) as case:
        yield case
