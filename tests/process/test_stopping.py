from __future__ import annotations

import asyncio
import os
import signal

import pytest

from pilotlight.process.stopping import StopSignals


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_block_as_if_it_had_ended(number: signal.Signals) -> None:
    seen: list[str] = []

    async def serve() -> None:
        stop = StopSignals()
        async with stop.until_told():
            try:
                os.kill(os.getpid(), number)
                await asyncio.get_running_loop().create_future()
            finally:
                seen.append("cut short")
        await asyncio.sleep(0)
        seen.append("ended in order")

    asyncio.run(serve())

    assert seen == ["cut short", "ended in order"]


def test_once_told_no_further_block_goes_on() -> None:
    async def serve() -> int:
        stop, n_ended = StopSignals(), 0
        for _ in range(2):
            async with stop.until_told():
                if n_ended == 0:
                    os.kill(os.getpid(), signal.SIGTERM)
                await asyncio.get_running_loop().create_future()
            n_ended += 1
        return n_ended

    assert asyncio.run(asyncio.wait_for(serve(), 5)) == 2


def test_an_error_of_the_block_is_its_own() -> None:
    async def serve(error: Exception) -> None:
        async with StopSignals().until_told():
            raise error

    for error in (ValueError("no"), TimeoutError("slow")):
        with pytest.raises(type(error), match=str(error)):
            asyncio.run(serve(error))


def test_a_block_that_ends_by_itself_is_not_cut_short() -> None:
    async def serve() -> str:
        async with StopSignals().until_told():
            await asyncio.sleep(0)
        return "done"

    assert asyncio.run(serve()) == "done"
