from __future__ import annotations

import asyncio

import grpc
import pytest

from pilotlight.store_node.protocol import channels
from pilotlight.store_node.protocol.channels import Channels

pytestmark = pytest.mark.integration

ADDRESS = "127.0.0.1:1"


async def test_an_address_has_one_connection_until_it_is_forgotten() -> None:
    known = Channels()
    first = known.get(ADDRESS)
    assert known.get(ADDRESS) is first

    known.forget(ADDRESS)

    assert known.get(ADDRESS) is not first
    await known.close()


async def test_who_calls_over_a_forgotten_connection_may_go_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(channels, "LINGER_SECONDS", 0.05)
    known, closed = Channels(), asyncio.Event()
    channel = known.get(ADDRESS)
    close = channel.close

    async def close_and_tell() -> None:
        await close()
        closed.set()

    monkeypatch.setattr(channel, "close", close_and_tell)

    known.forget(ADDRESS)

    assert channel.get_state() is not grpc.ChannelConnectivity.SHUTDOWN
    async with asyncio.timeout(5.0):
        await closed.wait()
    await known.close()


async def test_closing_closes_forgotten_connections_too() -> None:
    known = Channels()
    forgotten, kept = known.get(ADDRESS), known.get("127.0.0.1:2")
    known.forget(ADDRESS)

    await known.close()

    for channel in (forgotten, kept):
        assert channel.get_state() is grpc.ChannelConnectivity.SHUTDOWN


async def test_forgetting_what_is_not_known_is_harmless() -> None:
    known = Channels()

    known.forget(ADDRESS)

    await known.close()
