"""Requests that wait for a place."""

from __future__ import annotations

import asyncio

import pytest

from pilotlight.scheduler.core.actions import ModelRefused
from pilotlight.scheduler.errors import (
    DeadlineExceeded,
    DuplicateRequest,
    ModelUnavailable,
    QueueFull,
    UnknownModel,
)
from pilotlight.scheduler.gateway.routing.testing import RoutingCase
from pilotlight.store_node.protocol import FinishReason, ModelId
from pilotlight.store_node.protocol.refusals import ErrorCode


async def test_first_come_first_served(case: RoutingCase) -> None:
    clients = [case.ask(f"q{number}") for number in range(3)]
    await case.settle()

    case.add("r1")
    for client in clients:
        await case.settle()
        case.nodes.last.finish(7)
        await client.task

    assert [attempt.request.request_id for attempt in case.nodes.attempts] == ["q0", "q1", "q2"]
    assert [client.ids for client in clients] == [[7], [7], [7]]


async def test_a_newcomer_does_not_overtake_who_waits(case: RoutingCase) -> None:
    case.add("r1")
    running, waiting = case.ask("q1"), case.ask("q2")
    await case.settle()

    case.nodes.last.finish(7)
    await running.task
    newcomer = case.ask("q3")
    await case.settle()

    assert case.nodes.last.request.request_id == "q2"
    assert not waiting.task.done()
    assert not newcomer.batches


async def test_a_newcomer_does_not_overtake_who_is_about_to_be_called(case: RoutingCase) -> None:
    case.add("r1")
    case.ask("q1")
    await case.settle()
    case.nodes.last.refuse(ErrorCode.NO_SLOT)

    # The replica's pause of 0.1 s is over, and the line is looked at a moment later.
    await asyncio.sleep(0.1005)
    case.ask("q2")
    await case.settle()
    before = len(case.nodes.attempts)
    await asyncio.sleep(0.01)

    assert before == 1
    assert case.nodes.last.request.request_id == "q1"


async def test_one_that_is_lost_is_before_who_waits_already(case: RoutingCase) -> None:
    case.add("r1")
    case.ask("running")
    case.add("r2")
    case.ask("waiting")
    await case.settle()
    running, waiting = case.nodes.attempts
    waiting.refuse(ErrorCode.NO_SLOT)

    # The pause of r2 is over, and the line is looked at a moment later.
    await asyncio.sleep(0.1005)
    running.refuse(ErrorCode.WORKER_DIED)
    await case.settle()

    latest = case.nodes.last
    assert (latest.address, latest.request.request_id) == ("r2", "running")


async def test_no_replica_gets_more_than_it_takes_at_once(case: RoutingCase) -> None:
    case.add("r1", concurrency=2)

    for number in range(5):
        case.ask(f"q{number}")
    await case.settle()

    assert len(case.nodes.attempts) == 2
    assert case.router.counts() == {"m": (3, 2)}


async def test_the_emptier_replica_is_taken(case: RoutingCase) -> None:
    case.add("r1", concurrency=4)
    case.add("r2", concurrency=2)

    for number in range(3):
        case.ask(f"q{number}")
        await case.settle()

    # Of two empty ones the first; then r1 is a quarter full; then r2 is half full.
    assert [attempt.address for attempt in case.nodes.attempts] == ["r1", "r2", "r1"]


async def test_models_have_lines_of_their_own(case: RoutingCase) -> None:
    case.deploy("other")
    case.ask("q1", "m")
    client = case.ask("q2", "other")
    await case.settle()

    case.add("r1", "other")
    await case.settle()
    case.nodes.last.finish(7)
    await client.task

    assert client.ids == [7]
    assert case.router.counts() == {"m": (1, 0), "other": (0, 0)}


async def test_full_line_refuses_and_says_when_to_come_back(case: RoutingCase) -> None:
    case.deploy("m", queue_limit=2)
    for number in range(2):
        case.ask(f"q{number}")

    late = case.ask("late")
    await late.task

    assert isinstance(late.error, QueueFull)
    assert (late.error.waiting, late.error.retry_after_seconds) == (2, 1.0)
    assert str(late.error) == "2 requests already wait for 'm'"


async def test_who_is_told_to_come_back_is_told_how_long_others_waited(case: RoutingCase) -> None:
    case.deploy("m", queue_limit=1)
    first = case.ask("q1")
    await asyncio.sleep(20.0)
    case.add("r1")
    await case.settle()
    waiting, late = case.ask("q2"), case.ask("q3")
    await late.task

    assert isinstance(late.error, QueueFull)
    assert late.error.retry_after_seconds == pytest.approx(20.0, abs=0.01)
    await first.leave()
    await waiting.leave()


async def test_a_request_that_lost_its_place_is_not_refused_by_a_full_line(
    case: RoutingCase,
) -> None:
    case.deploy("m", queue_limit=1)
    case.add("r1")
    client, waiting = case.ask("q1"), case.ask("q2")
    await case.settle()

    case.nodes.last.break_off()
    await case.settle()
    case.add("r2", concurrency=2)
    await case.settle()

    assert client.error is None
    # The one that had a place before goes first.
    assert [a.request.request_id for a in case.nodes.attempts] == ["q1", "q1", "q2"]
    assert not waiting.task.done()


async def test_demand_is_told_once_for_all_that_came_at_once(case: RoutingCase) -> None:
    await asyncio.sleep(5.0)
    for number in range(3):
        case.ask(f"q{number}")

    await case.settle()

    assert case.link.demand == [("m", 3, 5.0)]


async def test_demand_names_the_oldest_that_still_waits(case: RoutingCase) -> None:
    first = case.ask("q1")
    await asyncio.sleep(5.0)
    case.ask("q2")
    await case.settle()

    await first.leave()
    await case.settle()

    assert [(waiting, oldest) for _, waiting, oldest in case.link.demand] == [
        (1, 0.0),
        (2, 0.0),
        (1, 5.0),
    ]


async def test_an_empty_line_is_told_too(case: RoutingCase) -> None:
    case.ask()
    await case.settle()

    case.add("r1")
    await case.settle()

    assert case.link.demand == [("m", 1, 0.0), ("m", 0, None)]


async def test_a_request_that_need_not_wait_is_no_demand(case: RoutingCase) -> None:
    case.add("r1")
    client = case.ask()
    await case.settle()
    case.nodes.last.finish(7)
    await client.task

    await case.settle()

    assert case.link.demand == []


async def test_a_new_leader_is_told_all_demand_again(case: RoutingCase) -> None:
    case.deploy("other")
    case.ask("q1", "m")
    case.ask("q2", "other")
    await case.settle()
    case.link.demand.clear()

    case.router.announce_all()
    await case.settle()

    assert case.link.demand == [("m", 1, 0.0), ("other", 1, 0.0)]


async def test_a_request_waits_no_longer_than_its_deadline(case: RoutingCase) -> None:
    client = case.ask(deadline_seconds=30.0)

    await client.task

    assert isinstance(client.error, DeadlineExceeded)
    assert str(client.error) == "request 'q1' passed its 30 s while waiting for a replica"
    assert asyncio.get_running_loop().time() == pytest.approx(30.0)
    await case.settle()
    assert case.link.demand[-1] == ("m", 0, None)


async def test_a_client_that_leaves_the_line_leaves_it_to_others(case: RoutingCase) -> None:
    leaving, staying = case.ask("q1"), case.ask("q2")
    await case.settle()

    await leaving.leave()
    case.add("r1")
    await case.settle()

    assert [attempt.request.request_id for attempt in case.nodes.attempts] == ["q2"]
    assert not staying.task.done()


async def test_a_place_goes_to_the_next_where_its_owner_leaves_as_it_comes(
    case: RoutingCase,
) -> None:
    leaving = case.ask("q1")
    case.ask("q2")
    await case.settle()

    # In one turn of the loop: the place is given, and nobody is there to take it.
    case.add("r1")
    leaving.task.cancel()
    await case.settle()

    assert [attempt.request.request_id for attempt in case.nodes.attempts] == ["q2"]
    assert case.router.counts() == {"m": (0, 1)}


async def test_a_deadline_that_passes_as_the_place_comes_frees_the_place(
    case: RoutingCase,
) -> None:
    late = case.ask("q1", deadline_seconds=10.0)
    case.ask("q2")
    # Both timers are due at once; the one that was set last fires last.
    asyncio.get_running_loop().call_later(10.0, case.add, "r1")

    await late.task
    await case.settle()

    assert [attempt.request.request_id for attempt in case.nodes.attempts][-1] == "q2"
    assert case.router.counts() == {"m": (0, 1)}


async def test_one_id_runs_once_at_a_time(case: RoutingCase) -> None:
    case.add("r1", concurrency=2)
    first, second = case.ask("q1"), case.ask("q1")
    await case.settle()

    case.nodes.last.finish(7)
    await asyncio.wait([first.task, second.task])
    again = case.ask("q1")
    await case.settle()
    case.nodes.last.finish(8)
    await again.task

    assert isinstance(second.error, DuplicateRequest)
    assert (first.ids, again.ids) == ([7], [8])


async def test_an_id_is_free_again_after_any_end(case: RoutingCase) -> None:
    expired = case.ask("q1", deadline_seconds=1.0)
    await expired.task

    left = case.ask("q1")
    await case.settle()
    await left.leave()
    case.add("r1")
    client = case.ask("q1")
    await case.settle()
    case.nodes.last.finish(7)
    await client.task

    assert client.finish_reason is FinishReason.LENGTH


async def test_a_model_that_is_not_deployed_is_refused_by_name(case: RoutingCase) -> None:
    client = case.ask(model="nobody")

    await client.task

    assert isinstance(client.error, UnknownModel)
    assert str(client.error) == "no model 'nobody' is deployed; deployed: m"
    assert case.link.demand == []


async def test_a_refused_model_fails_all_that_wait_and_nobody_else(case: RoutingCase) -> None:
    case.deploy("other")
    case.add("r1")
    running = case.ask("q1")
    await case.settle()
    waiting = [case.ask("q2"), case.ask("q3")]
    of_other = case.ask("q4", "other")
    await case.settle()

    case.router.apply(ModelRefused(model=ModelId("m"), reason="its only copies lie on n1: down"))
    await asyncio.wait([client.task for client in waiting])

    for client in waiting:
        assert isinstance(client.error, ModelUnavailable)
        assert str(client.error) == "model 'm' can't be served: its only copies lie on n1: down"
    assert not running.task.done()
    assert not of_other.task.done()
    assert case.router.counts() == {"m": (0, 1), "other": (1, 0)}
    assert case.link.demand[-1] == ("m", 0, None)


async def test_a_model_may_be_asked_for_again_after_it_was_refused(case: RoutingCase) -> None:
    refused = case.ask("q1")
    await case.settle()
    case.router.apply(ModelRefused(model=ModelId("m"), reason="no node"))
    await refused.task

    client = case.ask("q2")
    await case.settle()
    case.add("r1")
    await case.settle()
    case.nodes.last.finish(7)
    await client.task

    assert client.ids == [7]
