"""Several requests that come as one: all are admitted, or none is."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence

import pytest

from pilotlight.scheduler.errors import (
    DeadlineExceeded,
    DuplicateRequest,
    InvalidRequest,
    QueueFull,
    RequestLost,
    ServerStopping,
)
from pilotlight.scheduler.gateway.backend import Inference
from pilotlight.scheduler.gateway.routing.testing import RoutingCase
from pilotlight.scheduler.gateway.text.choices import choice_of
from pilotlight.store_node.protocol import TokenBatch
from pilotlight.store_node.protocol.refusals import ErrorCode


def three(case: RoutingCase) -> list[Inference]:
    return [case.inference(f"q{number}", seed=number) for number in range(3)]


async def read(run: AsyncGenerator[TokenBatch, None]) -> list[int]:
    return [token async for batch in run for token in batch.token_ids]


async def ask(case: RoutingCase, inferences: Sequence[Inference]) -> list[list[int]]:
    async with case.router.admit(inferences) as runs:
        return await asyncio.gather(*map(read, runs))


async def test_each_runs_at_a_place_of_its_own(case: RoutingCase) -> None:
    case.add("r1", concurrency=2)
    case.add("r2")
    asking = asyncio.ensure_future(ask(case, three(case)))
    await case.settle()

    for number, attempt in enumerate(case.nodes.attempts):
        attempt.finish(10 + number)

    assert await asking == [[10], [11], [12]]
    assert sorted(attempt.address for attempt in case.nodes.attempts) == ["r1", "r1", "r2"]
    assert case.router.counts() == {"m": (0, 0)}


async def test_those_without_a_place_wait_and_are_demand(case: RoutingCase) -> None:
    case.add("r1")
    asking = asyncio.ensure_future(ask(case, three(case)))
    await case.settle()
    counts, demand = case.router.counts(), case.link.demand[-1]

    for number in range(3):
        case.nodes.last.finish(10 + number)
        await case.settle()

    assert (counts, demand) == ({"m": (2, 1)}, ("m", 2, 0.0))
    assert await asking == [[10], [11], [12]]


async def test_where_the_line_can_not_hold_all_none_is_taken(case: RoutingCase) -> None:
    case.deploy("m", queue_limit=3)
    case.ask("first")
    await case.settle()

    with pytest.raises(QueueFull) as caught:
        await ask(case, three(case))

    assert str(caught.value) == "1 requests already wait for 'm', which leaves no room for 3 more"
    assert case.router.counts() == {"m": (1, 0)}
    await case.settle()
    assert case.nodes.attempts == []


async def test_those_that_were_refused_leave_ids_and_places_to_others(case: RoutingCase) -> None:
    case.deploy("m", queue_limit=3)
    waiting = [case.ask(f"w{number}") for number in range(2)]
    await case.settle()
    with pytest.raises(QueueFull):
        await ask(case, three(case))

    client = case.ask("q0")
    case.add("r1", concurrency=3)
    await case.settle()
    for attempt in case.nodes.attempts:
        attempt.finish(10)
    for each in (*waiting, client):
        await each.task

    assert client.ids == [10]


async def test_more_choices_than_may_ever_wait_are_refused_for_good(case: RoutingCase) -> None:
    case.deploy("m", queue_limit=2)

    with pytest.raises(InvalidRequest, match="no more than 2 requests may wait") as caught:
        await ask(case, three(case))

    assert caught.value.param == "n"


async def test_none_is_taken_where_one_of_the_ids_runs(case: RoutingCase) -> None:
    case.add("r1", concurrency=4)
    running = case.ask("q2")
    await case.settle()

    with pytest.raises(DuplicateRequest):
        await ask(case, three(case))

    case.nodes.last.finish(10)
    await running.task
    assert (running.ids, len(case.nodes.attempts)) == ([10], 1)


async def test_a_stopping_server_takes_none(case: RoutingCase) -> None:
    case.add("r1", concurrency=4)
    case.router.stop_taking()

    with pytest.raises(ServerStopping):
        await ask(case, three(case))

    assert case.router.counts() == {"m": (0, 0)}


async def test_one_that_is_lost_goes_on_alone_and_as_it_began(case: RoutingCase) -> None:
    case.add("r1", concurrency=3)
    inferences = [
        case.inference(
            f"q{number}",
            seed=number,
            presence_penalty=0.5,
            repetition_penalty=1.5,
            logit_bias={7: -2.0 - number},
        )
        for number in range(3)
    ]
    asking = asyncio.ensure_future(ask(case, inferences))
    await case.settle()
    first, second, third = case.nodes.attempts
    second.send(20)
    await case.settle()

    second.refuse(ErrorCode.WORKER_DIED)
    case.add("r2")
    await case.settle()
    resumed = case.nodes.last
    for attempt in (first, resumed, third):
        attempt.finish(30)

    assert (resumed.request.request_id, resumed.request.attempt) == ("q1", 2)
    assert (resumed.request.prompt_ids, resumed.request.emitted_ids) == ((1, 2, 3), (20,))
    assert resumed.request.sampling == second.request.sampling == inferences[1].sampling
    assert await asking == [[30], [20, 30], [30]]


async def test_a_client_that_leaves_ends_all_in_any_state(case: RoutingCase) -> None:
    case.add("r1", concurrency=2)
    asking = asyncio.ensure_future(ask(case, three(case)))
    await case.settle()
    case.nodes.last.send(10)
    await case.settle()
    before = case.router.counts()

    asking.cancel()
    await asyncio.wait([asking])
    await case.settle()

    assert before == {"m": (1, 2)}
    assert case.router.counts() == {"m": (0, 0)}
    assert not any(attempt.is_open for attempt in case.nodes.attempts)


async def test_those_that_nobody_read_are_given_up_with_the_block(case: RoutingCase) -> None:
    case.add("r1", concurrency=2)

    async with case.router.admit(three(case)) as [_, second, _]:
        reading = asyncio.ensure_future(read(second))
        await case.settle()
        counts = case.router.counts()
        case.nodes.last.finish(10)
        ids = await reading

    assert (counts, ids) == ({"m": (1, 2)}, [10])
    assert [attempt.request.request_id for attempt in case.nodes.attempts] == ["q1"]
    assert case.router.counts() == {"m": (0, 0)}


async def test_one_that_lost_its_place_as_it_began_is_not_turned_away(case: RoutingCase) -> None:
    case.deploy("m", queue_limit=3)
    case.add("r1", concurrency=3)

    async with case.router.admit(three(case)) as runs:
        other = case.ask("other")
        await case.settle()
        # Before anything of them has run.
        case.remove("r1")
        reading = [asyncio.ensure_future(read(run)) for run in runs]
        await case.settle()
        counts = case.router.counts()
        case.add("r2", concurrency=4)
        await case.settle()
        for attempt in case.nodes.attempts:
            attempt.finish(10)
        answers = await asyncio.gather(*reading)
        await other.task

    assert counts == {"m": (4, 0)}
    assert answers == [[10]] * 3


async def test_one_that_is_slow_to_end_keeps_no_other_from_being_given_up(
    case: RoutingCase,
) -> None:
    case.add("r1", concurrency=2)
    asking = asyncio.ensure_future(hold(case, three(case)))
    await case.settle()
    before = case.router.counts()

    asking.cancel()
    await asyncio.wait([asking])

    assert before == {"m": (1, 2)}
    assert isinstance(asking.exception(), RuntimeError)
    assert case.router.counts() == {"m": (0, 1)}
    client = case.ask("q2")
    case.add("r2")
    await case.settle()
    case.nodes.last.finish(10)
    await client.task
    assert client.ids == [10]


async def hold(case: RoutingCase, inferences: Sequence[Inference]) -> None:
    """Wait beside somebody who still reads the first."""
    async with case.router.admit(inferences) as runs:
        reading = asyncio.ensure_future(read(runs[0]))
        await asyncio.wait([reading])


async def test_errors_name_the_request_as_its_client_does(case: RoutingCase) -> None:
    case.add("r1")
    second = choice_of(case.inference("mine"), 1)
    late = asyncio.ensure_future(ask(case, [second]))

    with pytest.raises(DeadlineExceeded, match="request 'mine' passed its 300 s"):
        await late

    case.nodes.on_attempt = lambda attempt: attempt.refuse(ErrorCode.WORKER_DIED)
    with pytest.raises(RequestLost, match="request 'mine' was lost 2 times"):
        await ask(case, [second])
