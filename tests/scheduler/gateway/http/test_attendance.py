from __future__ import annotations

import asyncio

import pytest
from starlette.types import Message

from pilotlight.scheduler.errors import ClientGone, ServerStopping
from pilotlight.scheduler.gateway.http.attendance import Attendances, alongside


class Client:
    """Receives like a server whose client leaves when told to."""

    def __init__(self) -> None:
        self.has_left = asyncio.Event()

    async def receive(self) -> Message:
        await self.has_left.wait()
        return {"type": "http.disconnect"}


async def test_work_ends_when_its_client_leaves() -> None:
    client = Client()
    attendances = Attendances()

    async def work() -> None:
        async with attendances.attend(client.receive):
            client.has_left.set()
            await asyncio.Event().wait()

    with pytest.raises(ClientGone):
        await work()

    assert len(attendances) == 0


async def test_work_whose_client_stays_is_left_alone() -> None:
    client = Client()

    async with Attendances().attend(client.receive):
        await asyncio.sleep(0)
        done = True

    assert done
    # Nothing of the watch is left that could cancel what follows.
    client.has_left.set()
    await asyncio.sleep(0)


async def test_all_work_is_cut_when_the_server_stops() -> None:
    attendances = Attendances()
    has_begun = asyncio.Event()

    async def work() -> None:
        async with attendances.attend(Client().receive):
            has_begun.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(work())
    await has_begun.wait()
    attendances.cut()

    with pytest.raises(ServerStopping):
        await task
    with pytest.raises(ServerStopping):
        await work()


async def test_a_cancellation_from_outside_stays_one() -> None:
    attendances = Attendances()

    async def work() -> None:
        async with attendances.attend(Client().receive):
            await asyncio.Event().wait()

    task = asyncio.create_task(work())
    await asyncio.sleep(0)
    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task


async def test_the_works_own_error_comes_through() -> None:
    with pytest.raises(ZeroDivisionError):
        async with Attendances().attend(Client().receive):
            raise ZeroDivisionError


async def test_work_alongside_ends_with_the_block() -> None:
    has_ended = False

    async def companion() -> None:
        nonlocal has_ended
        try:
            await asyncio.Event().wait()
        finally:
            has_ended = True

    async with alongside(companion()):
        await asyncio.sleep(0)

    assert has_ended


async def test_an_error_of_work_alongside_is_not_lost() -> None:
    async def companion() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        async with alongside(companion()):
            await asyncio.sleep(0)
