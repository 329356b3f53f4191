from __future__ import annotations

import asyncio

from pilotlight.scheduler.core.actions import Publish
from pilotlight.scheduler.driver.watchers import MOST_UNREAD, Occurrence, Watchers


def happened(number: int) -> Publish:
    return Publish(kind="test", text=str(number))


async def begin(watchers: Watchers) -> tuple[asyncio.Task[Occurrence], list[str]]:
    texts: list[str] = []

    async def watch() -> Occurrence:
        first: Occurrence | None = None
        async for occurrence in watchers.watch():
            first = first or occurrence
            texts.append(occurrence.what.text)
        raise AssertionError("watching has no end")

    task = asyncio.ensure_future(watch())
    await asyncio.sleep(0)
    return task, texts


async def test_all_who_watch_hear_all_in_order() -> None:
    watchers = Watchers()
    tasks, heard = zip(*[await begin(watchers) for _ in range(3)], strict=True)

    for number in range(3):
        watchers.publish(happened(number), at=1.7e9)
    await asyncio.sleep(1.0)

    assert list(heard) == [["0", "1", "2"]] * 3
    for task in tasks:
        task.cancel()


async def test_who_comes_later_hears_what_comes_later() -> None:
    watchers = Watchers()
    watchers.publish(happened(0), at=1.7e9)
    task, heard = await begin(watchers)

    watchers.publish(happened(1), at=1.7e9)
    await asyncio.sleep(1.0)

    assert heard == ["1"]
    task.cancel()


async def test_who_does_not_read_loses_the_oldest() -> None:
    watchers = Watchers()
    watching = watchers.watch()
    first = asyncio.ensure_future(anext(watching))
    await asyncio.sleep(0)
    watchers.publish(happened(0), at=1.7e9)
    await first

    for number in range(1, MOST_UNREAD + 11):
        watchers.publish(happened(number), at=1.7e9)
    oldest = await anext(watching)
    await watching.aclose()

    # Of 1010 unread ones the first ten are gone.
    assert oldest.what.text == "11"
