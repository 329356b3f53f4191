from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence

import pytest

from pilotlight.scheduler.gateway.backend import Inference
from pilotlight.scheduler.gateway.text.choices import choice_of, interleaved
from pilotlight.store_node.protocol import ModelId, RequestId, Sampling

INFERENCE = Inference(
    request_id=RequestId("req-1"),
    model=ModelId("m"),
    prompt_ids=(1, 2),
    sampling=Sampling(seed=2**64 - 2, presence_penalty=0.5, logit_bias={3: 1.0}),
    deadline_seconds=5.0,
)


class Source:
    """A stream whose items a test gives."""

    def __init__(self) -> None:
        self.items: asyncio.Queue[str | Exception | None] = asyncio.Queue()
        self.n_read = 0
        self.is_closed = False

    def give(self, *items: str | Exception | None) -> None:
        for item in items:
            self.items.put_nowait(item)

    async def read(self) -> AsyncGenerator[str, None]:
        try:
            while (item := await self.items.get()) is not None:
                if isinstance(item, Exception):
                    raise item
                self.n_read += 1
                yield item
        finally:
            self.is_closed = True


def sources(n: int) -> tuple[Sequence[Source], AsyncGenerator[str, None]]:
    made = [Source() for _ in range(n)]
    return made, interleaved([source.read() for source in made])


async def let_all_run() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


def test_the_first_choice_is_the_request_itself() -> None:
    assert choice_of(INFERENCE, 0) is INFERENCE


def test_each_other_choice_has_an_id_and_a_seed_that_follow_from_the_requests() -> None:
    choices = [choice_of(INFERENCE, index) for index in (1, 2)]

    assert [choice.request_id for choice in choices] == ["req-1.1", "req-1.2"]
    assert {choice.asked_as for choice in choices} == {"req-1"}
    assert [choice.sampling.seed for choice in choices] == [2**64 - 1, 0]
    assert {choice.prompt_ids for choice in choices} == {(1, 2)}
    assert [choice.sampling.logit_bias for choice in choices] == [{3: 1.0}] * 2


async def test_one_stream_is_passed_on_as_it_is() -> None:
    stream = Source().read()

    assert interleaved([stream]) is stream


async def test_items_come_as_they_are_there_each_streams_in_order() -> None:
    (first, second), items = sources(2)
    second.give("b1")
    seen = [await anext(items)]
    first.give("a1")
    seen.append(await anext(items))
    second.give("b2", None)
    first.give("a2", None)

    seen += [item async for item in items]

    assert seen[:2] == ["b1", "a1"]
    assert sorted(seen[2:]) == ["a2", "b2"]
    assert first.is_closed
    assert second.is_closed


async def test_what_is_ready_at_once_comes_in_the_order_of_the_streams() -> None:
    made, items = sources(3)
    for name, source in zip("abc", made, strict=True):
        source.give(name + "1", name + "2", None)

    seen = [item async for item in items]

    assert seen == ["a1", "b1", "c1", "a2", "b2", "c2"]


async def test_no_stream_is_read_far_ahead_of_a_slow_reader() -> None:
    (first, second), items = sources(2)
    first.give(*"aaaa")
    second.give(*"bbbb")

    await anext(items)
    await let_all_run()

    assert (first.n_read, second.n_read) == (1, 1)
    await items.aclose()


async def test_an_error_of_one_ends_all() -> None:
    (first, second), items = sources(2)
    first.give("a1")
    second.give(ValueError("broken"))

    with pytest.raises(ValueError, match="broken"):
        [item async for item in items]

    assert first.is_closed
    assert second.is_closed


async def test_of_several_errors_one_is_told_and_none_is_left_over() -> None:
    (first, second), items = sources(2)
    first.give(ValueError("one"))
    second.give(ValueError("other"))

    # An error that nobody looked at would be a warning, and so a failure, here.
    with pytest.raises(ValueError, match="one"):
        await anext(items)


async def test_closing_closes_all() -> None:
    (first, second), items = sources(2)
    first.give("a1", "a2")
    await anext(items)

    await items.aclose()

    assert first.is_closed
    assert second.is_closed


async def test_a_reader_that_is_cancelled_closes_all() -> None:
    (first, second), items = sources(2)
    reading = asyncio.ensure_future(anext(items))
    await let_all_run()

    reading.cancel()
    await asyncio.wait([reading])

    assert first.is_closed
    assert second.is_closed
