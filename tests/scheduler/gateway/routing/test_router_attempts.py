"""Requests at replicas: their tokens, and what happens where a place is lost."""

from __future__ import annotations

import asyncio

import grpc
import pytest

from pilotlight.scheduler.errors import (
    ClientTooSlow,
    DeadlineExceeded,
    InvalidRequest,
    ModelBroken,
    RequestLost,
)
from pilotlight.scheduler.gateway.routing import node_streams
from pilotlight.scheduler.gateway.routing.testing import PROMPT_IDS, Attempt, RoutingCase
from pilotlight.store_node.protocol import FinishReason, store_node_pb2
from pilotlight.store_node.protocol.refusals import ErrorCode

NOT_TAKEN = (
    ErrorCode.NO_SLOT,
    ErrorCode.NO_KV_MEMORY,
    ErrorCode.NOT_READY,
    ErrorCode.UNKNOWN_REPLICA,
    ErrorCode.NODE_STOPPING,
    ErrorCode.WRONG_INCARNATION,
    ErrorCode.INCOMPATIBLE,
    ErrorCode.STALE_EPOCH,
)


async def test_a_node_gets_all_that_it_needs(case: RoutingCase) -> None:
    case.add("r1", incarnation="n-7")
    await asyncio.sleep(10.0)

    case.ask("q1", max_tokens=9, deadline_seconds=60.0)
    await case.settle()

    request = case.nodes.last.request
    assert (request.request_id, request.attempt, request.idempotency_key) == ("q1", 1, "q1/1")
    assert (request.replica_id, request.incarnation, request.epoch) == ("r1", "n-7", 1)
    assert (request.prompt_ids, request.emitted_ids) == (PROMPT_IDS, ())
    assert request.sampling.max_tokens == 9
    assert request.deadline_seconds == pytest.approx(60.0)


async def test_tokens_pass_as_they_come(case: RoutingCase) -> None:
    case.add("r1")
    client = case.ask()
    await case.settle()

    case.nodes.last.send(10, 11)
    await case.settle()
    seen = client.ids
    case.nodes.last.finish(12)
    await client.task

    assert seen == [10, 11]
    assert [(batch.seq, batch.token_ids) for batch in client.batches] == [
        (0, (10, 11)),
        (2, (12,)),
    ]
    assert client.finish_reason is FinishReason.LENGTH
    assert case.router.counts() == {"m": (0, 0)}


async def test_a_last_batch_may_have_no_tokens(case: RoutingCase) -> None:
    case.add("r1")
    client = case.ask()
    await case.settle()

    case.nodes.last.send(10)
    case.nodes.last.send(finish_reason=FinishReason.STOP)
    await client.task

    assert (client.ids, client.finish_reason) == ([10], FinishReason.STOP)


async def test_a_broken_stream_goes_on_at_another_replica(case: RoutingCase) -> None:
    case.add("r1")
    client = case.ask("q1")
    await case.settle()
    case.nodes.last.send(10, 11)

    case.nodes.last.break_off()
    case.add("r2")
    await case.settle()
    resumed = case.nodes.last
    resumed.finish(12, 13)
    await client.task

    assert (resumed.address, resumed.request.attempt) == ("r2", 2)
    assert (resumed.request.emitted_ids, resumed.request.idempotency_key) == ((10, 11), "q1/2")
    assert client.ids == [10, 11, 12, 13]
    assert [(batch.attempt, batch.seq) for batch in client.batches] == [(1, 0), (2, 2)]


async def test_the_deadline_goes_on_with_the_request(case: RoutingCase) -> None:
    case.add("r1")
    case.add("r2")
    case.ask(deadline_seconds=60.0)
    await asyncio.sleep(20.0)

    case.nodes.last.break_off()
    await case.settle()

    assert case.nodes.last.request.deadline_seconds == pytest.approx(40.0)


async def test_the_same_replica_gets_a_broken_stream_again_after_a_pause(
    case: RoutingCase,
) -> None:
    case.add("r1")
    client = case.ask()
    await case.settle()

    case.nodes.last.break_off()
    await asyncio.sleep(0.9)
    before = len(case.nodes.attempts)
    await asyncio.sleep(0.2)
    case.nodes.last.finish(10)
    await client.task

    assert (before, len(case.nodes.attempts)) == (1, 2)
    assert client.ids == [10]


async def test_a_stream_that_ends_without_a_reason_is_a_broken_one(case: RoutingCase) -> None:
    case.add("r1")
    case.add("r2")
    client = case.ask()
    await case.settle()

    case.nodes.last.send(10)
    case.nodes.last.end()
    await case.settle()
    case.nodes.last.finish(11)
    await client.task

    assert case.nodes.last.request.attempt == 2
    assert client.ids == [10, 11]


async def test_repeated_tokens_count_once(case: RoutingCase) -> None:
    case.add("r1")
    client = case.ask()
    await case.settle()
    node = case.nodes.last

    node.send(10, 11, seq=0)
    node.send(11, 12, seq=1)
    node.send(10, 11, seq=0)
    node.send(13, seq=3, finish_reason=FinishReason.LENGTH)
    await client.task

    assert [(batch.seq, batch.token_ids) for batch in client.batches] == [
        (0, (10, 11)),
        (2, (12,)),
        (3, (13,)),
    ]


async def test_tokens_of_an_old_attempt_are_passed_over(case: RoutingCase) -> None:
    case.add("r1")
    case.add("r2")
    client = case.ask()
    await case.settle()
    case.nodes.last.send(10)
    case.nodes.last.break_off()
    await case.settle()

    case.nodes.last.send(99, seq=1, attempt=1)
    case.nodes.last.send(11)
    case.nodes.last.finish(12)
    await client.task

    assert client.ids == [10, 11, 12]


async def test_a_gap_in_the_tokens_is_a_lost_attempt(case: RoutingCase) -> None:
    case.add("r1")
    case.add("r2")
    client = case.ask()
    await case.settle()

    case.nodes.last.send(10, seq=0)
    case.nodes.last.send(12, seq=2)
    await case.settle()
    first, resumed = case.nodes.attempts
    resumed.finish(11, 12)
    await client.task

    assert not first.is_open
    assert resumed.request.emitted_ids == (10,)
    assert client.ids == [10, 11, 12]


async def test_nonsense_from_a_node_is_a_lost_attempt(case: RoutingCase) -> None:
    case.add("r1")
    case.add("r2")
    client, other = case.ask("q1"), case.ask("q2")
    await case.settle()
    [first, of_other] = case.nodes.attempts

    # No such finish reason is known.
    first.say(store_node_pb2.TokenBatch(request_id="q1", attempt=1, finish_reason=99))  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    of_other.finish(7)
    await asyncio.sleep(2.0)
    case.nodes.last.finish(10)
    await asyncio.wait([client.task, other.task])

    assert (client.ids, other.ids) == ([10], [7])


@pytest.mark.parametrize("code", NOT_TAKEN)
async def test_a_refused_attempt_goes_elsewhere(case: RoutingCase, code: ErrorCode) -> None:
    case.add("r1")
    case.add("r2")
    client = case.ask()
    await case.settle()

    case.nodes.last.refuse(code)
    await case.settle()
    case.nodes.last.finish(10)
    await client.task

    assert [attempt.address for attempt in case.nodes.attempts] == ["r1", "r2"]
    assert client.ids == [10]


@pytest.mark.parametrize("code", NOT_TAKEN)
async def test_a_refused_attempt_is_not_a_lost_one(case: RoutingCase, code: ErrorCode) -> None:
    case.add("r1")
    case.nodes.on_attempt = lambda attempt: attempt.refuse(code)
    client = case.ask(deadline_seconds=60.0)

    await client.task

    # Far more often than a request may be lost.
    assert len(case.nodes.attempts) > 50
    assert isinstance(client.error, DeadlineExceeded)


@pytest.mark.parametrize("code", [ErrorCode.NO_SLOT, ErrorCode.NO_KV_MEMORY])
async def test_a_full_replica_is_left_alone_for_a_moment_only(
    case: RoutingCase, code: ErrorCode
) -> None:
    case.add("r1")
    client = case.ask()
    await case.settle()

    case.nodes.last.refuse(code)
    await asyncio.sleep(0.2)
    case.nodes.last.finish(10)
    await client.task

    assert [attempt.request.attempt for attempt in case.nodes.attempts] == [1, 2]
    assert client.ids == [10]


async def test_smaller_requests_do_not_overtake_one_that_lacks_kv_memory(
    case: RoutingCase,
) -> None:
    """A replica of four slots, whose memory holds one large request or four small ones."""
    running: dict[str, int] = {}

    def take(attempt: Attempt) -> None:
        name = attempt.request.request_id
        size = 4 if name == "large" else 1
        if sum(running.values()) + size > 4:
            attempt.refuse(ErrorCode.NO_KV_MEMORY)
            return
        running[name] = size
        asyncio.get_running_loop().call_later(0.3, end, attempt)

    def end(attempt: Attempt) -> None:
        del running[attempt.request.request_id]
        attempt.finish(10)

    case.nodes.on_attempt = take
    case.add("r1", concurrency=4)
    small = [case.ask(f"early{number}") for number in range(3)]
    await case.settle()
    large = case.ask("large")
    await case.settle()
    small += [case.ask(f"late{number}") for number in range(40)]

    await large.task

    # The early ones, and at most those that had places while it was tried first.
    assert sum(client.task.done() for client in small) <= 4
    for client in small:
        await client.task


@pytest.mark.parametrize("code", [ErrorCode.CONTEXT_EXCEEDED, ErrorCode.INVALID_REQUEST])
async def test_what_can_never_run_is_not_tried_again(case: RoutingCase, code: ErrorCode) -> None:
    case.add("r1")
    case.add("r2")
    client = case.ask()
    await case.settle()

    case.nodes.last.refuse(code, "4000 tokens are too many")
    await client.task

    assert isinstance(client.error, InvalidRequest)
    assert (str(client.error), client.error.code) == ("4000 tokens are too many", code)
    assert len(case.nodes.attempts) == 1
    assert case.router.counts() == {"m": (0, 0)}


async def test_a_broken_model_is_not_asked_again_and_not_the_clients_fault(
    case: RoutingCase,
) -> None:
    case.add("r1")
    case.add("r2")
    client = case.ask()
    await case.settle()

    case.nodes.last.refuse(ErrorCode.INVALID_LOGITS, "the logits at position 3 are not finite")
    await client.task

    assert isinstance(client.error, ModelBroken)
    assert str(client.error) == "the logits at position 3 are not finite"
    assert len(case.nodes.attempts) == 1


async def test_what_an_engine_gave_up_goes_on_elsewhere(case: RoutingCase) -> None:
    case.add("r1")
    case.add("r2")
    client = case.ask()
    await case.settle()

    case.nodes.last.refuse(ErrorCode.ENGINE_FAILED)
    await case.settle()
    case.nodes.last.finish(10)
    await client.task

    assert client.ids == [10]
    assert len({attempt.request.replica_id for attempt in case.nodes.attempts}) == 2


async def test_a_node_may_say_that_it_is_too_late(case: RoutingCase) -> None:
    case.add("r1")
    client = case.ask(deadline_seconds=60.0)
    await case.settle()

    case.nodes.last.refuse(ErrorCode.DEADLINE_EXCEEDED)
    await client.task

    assert isinstance(client.error, DeadlineExceeded)
    assert str(client.error) == "request 'q1' passed its 60 s while running at node-of-r1"


async def test_a_request_that_kills_two_workers_is_given_up(case: RoutingCase) -> None:
    for number in range(3):
        case.add(f"r{number}")
    case.nodes.on_attempt = lambda attempt: attempt.refuse(ErrorCode.WORKER_DIED, "killed by 9")

    client = case.ask()
    await client.task

    assert isinstance(client.error, RequestLost)
    assert str(client.error) == "request 'q1' was lost 2 times, last: killed by 9"
    assert len(case.nodes.attempts) == 2


async def test_a_dead_worker_counts_as_one_also_where_the_controller_knows_it_first(
    case: RoutingCase,
) -> None:
    for number in range(3):
        case.add(f"r{number}")
    client = case.ask()

    for number in range(2):
        await case.settle()
        case.remove(f"r{number}", is_lost=True, code="worker_died")
    await client.task

    assert str(client.error) == "request 'q1' was lost 2 times, last: it is gone"


@pytest.mark.parametrize("code", ["node_lost", ""])
async def test_a_lost_node_is_no_dead_worker(case: RoutingCase, code: str) -> None:
    for number in range(4):
        case.add(f"r{number}")
    client = case.ask()

    for number in range(3):
        await case.settle()
        case.remove(f"r{number}", is_lost=True, code=code)
    await case.settle()
    case.nodes.last.finish(10)
    await client.task

    assert client.ids == [10]


async def test_a_request_that_is_lost_five_times_is_given_up(case: RoutingCase) -> None:
    case.add("r1")
    case.nodes.on_attempt = lambda attempt: attempt.break_off()

    client = case.ask()
    await client.task

    assert isinstance(client.error, RequestLost)
    assert str(client.error) == "request 'q1' was lost 5 times, last: Socket closed"


async def test_refusals_are_not_told_as_losses(case: RoutingCase) -> None:
    case.add("r1")
    answers = [ErrorCode.NO_SLOT] * 3 + [ErrorCode.WORKER_DIED] * 2
    case.nodes.on_attempt = lambda attempt: attempt.refuse(answers.pop(0), "it died")

    client = case.ask()
    await client.task

    assert str(client.error) == "request 'q1' was lost 2 times, last: it died"


async def test_a_lost_replica_cuts_its_streams_at_once(case: RoutingCase) -> None:
    case.add("r1")
    client = case.ask()
    await case.settle()
    case.nodes.last.send(10)
    await case.settle()
    now = asyncio.get_running_loop().time()

    case.remove("r1", is_lost=True)
    case.add("r2")
    await case.settle()
    first, resumed = case.nodes.attempts
    resumed.finish(11)
    await client.task

    assert not first.is_open
    assert client.ids == [10, 11]
    assert asyncio.get_running_loop().time() - now < 0.01


async def test_what_a_lost_replica_had_sent_is_kept(case: RoutingCase) -> None:
    case.add("r1")
    client = case.ask()
    await case.settle()

    # In one turn of the loop: nobody has read the tokens yet.
    case.nodes.last.send(10, 11)
    await asyncio.sleep(0)
    case.remove("r1", is_lost=True)
    case.add("r2")
    await case.settle()

    assert case.nodes.last.request.emitted_ids == tuple(client.ids)


async def test_a_replica_that_leaves_ends_its_streams_itself(case: RoutingCase) -> None:
    case.add("r1")
    running, waiting = case.ask("q1"), case.ask("q2")
    await case.settle()

    case.remove("r1")
    await case.settle()
    case.nodes.last.send(10)
    case.nodes.last.finish(11)
    await running.task
    await case.settle()

    assert running.ids == [10, 11]
    assert len(case.nodes.attempts) == 1
    assert not waiting.task.done()


async def test_a_replica_that_was_lost_as_its_place_was_taken_is_not_called(
    case: RoutingCase,
) -> None:
    client = case.ask()
    await case.settle()

    # In one turn of the loop.
    case.add("r1")
    case.remove("r1", is_lost=True)
    await case.settle()
    before = len(case.nodes.attempts)
    case.add("r2")
    await case.settle()
    case.nodes.last.finish(10)
    await client.task

    assert before == 0
    assert client.ids == [10]


async def test_a_place_that_was_lost_as_it_came_does_not_cost_the_turn(case: RoutingCase) -> None:
    case.deploy("m", queue_limit=1)
    first = case.ask("q1")
    await case.settle()

    case.add("r1")
    case.remove("r1")
    second = case.ask("q2")
    await case.settle()
    case.add("r2", concurrency=2)
    await case.settle()

    assert (first.error, second.error) == (None, None)
    assert [attempt.request.request_id for attempt in case.nodes.attempts] == ["q1", "q2"]


async def test_a_replica_that_stays_after_all_still_counts_what_runs_there(
    case: RoutingCase,
) -> None:
    case.add("r1")
    running, waiting = case.ask("q1"), case.ask("q2")
    await case.settle()

    # Its node refused to stop it.
    case.remove("r1")
    case.add("r1")
    await case.settle()
    before = len(case.nodes.attempts)
    case.nodes.last.finish(10)
    await running.task
    await case.settle()

    assert before == 1
    assert case.nodes.last.request.request_id == "q2"
    assert case.router.counts() == {"m": (0, 1)}
    await waiting.leave()


async def test_a_replica_that_leaves_still_counts_as_running(case: RoutingCase) -> None:
    case.add("r1")
    client = case.ask()
    await case.settle()

    case.remove("r1")
    counts = case.router.counts()
    case.nodes.last.finish(10)
    await client.task

    assert counts == {"m": (0, 1)}
    assert case.router.counts() == {}


async def test_a_client_that_leaves_cancels_its_attempt(case: RoutingCase) -> None:
    case.add("r1")
    client = case.ask()
    await case.settle()
    case.nodes.last.send(10)
    await case.settle()

    await client.leave()
    await case.settle()

    assert not case.nodes.last.is_open
    assert case.router.counts() == {"m": (0, 0)}


async def test_a_node_hears_that_a_slot_is_free_before_the_next_request_comes(
    case: RoutingCase,
) -> None:
    case.add("r1")
    leaving = case.ask("q1")
    await case.settle()
    was_open: list[bool] = []
    case.nodes.on_attempt = lambda _: was_open.append(case.nodes.attempts[0].is_open)

    # In one turn of the loop.
    leaving.task.cancel()
    case.ask("q2")
    await case.settle()

    assert was_open == [False]


async def test_a_client_that_leaves_as_its_attempt_begins_cancels_it_too(
    case: RoutingCase,
) -> None:
    case.add("r1")
    # Before anything has read from the call.
    client = case.ask()

    def leave(_: Attempt) -> None:
        client.task.cancel()

    case.nodes.on_attempt = leave
    await case.settle()

    assert client.task.cancelled()
    assert not case.nodes.last.is_open
    assert case.router.counts() == {"m": (0, 0)}


async def test_a_client_that_stops_reading_cancels_its_attempt(case: RoutingCase) -> None:
    case.add("r1")
    client = case.ask()
    client.may_read.clear()
    await case.settle()
    case.nodes.last.send(10)
    case.nodes.last.send(11)
    await case.settle()

    # It waits between two batches: the generator is closed, not cancelled.
    await client.leave()
    await case.settle()

    assert client.ids == [10]
    assert not case.nodes.last.is_open
    assert case.router.counts() == {"m": (0, 0)}


async def test_a_place_that_a_client_leaves_goes_to_the_next(case: RoutingCase) -> None:
    case.add("r1")
    leaving, next_one = case.ask("q1"), case.ask("q2")
    await case.settle()

    await leaving.leave()
    await case.settle()
    case.nodes.last.finish(10)
    await next_one.task

    assert next_one.ids == [10]


async def test_a_slow_client_holds_up_no_node(case: RoutingCase) -> None:
    case.add("r1")
    client = case.ask()
    client.may_read.clear()
    await case.settle()
    node = case.nodes.last

    for token in range(10, 13):
        node.send(token)
    node.finish(13)
    await case.settle()
    was_open, seen = node.is_open, list(client.ids)
    client.may_read.set()
    await client.task

    assert (was_open, seen) == (False, [10])
    assert client.ids == [10, 11, 12, 13]


async def test_a_client_that_is_too_far_behind_is_given_up(
    case: RoutingCase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(node_streams, "MOST_UNREAD_BATCHES", 3)
    case.add("r1")
    client = case.ask()
    client.may_read.clear()
    await case.settle()

    for token_id in range(10):
        case.nodes.last.send(token_id)
    await case.settle()
    was_open = case.nodes.last.is_open
    client.may_read.set()
    await client.task

    assert was_open is False
    # What waited for it, and the reason.
    assert client.ids == [0, 1, 2]
    assert isinstance(client.error, ClientTooSlow)


async def test_an_attempt_ends_with_the_deadline(case: RoutingCase) -> None:
    case.add("r1")
    client = case.ask(deadline_seconds=30.0)
    await case.settle()
    case.nodes.last.send(10)

    await client.task
    await case.settle()

    assert isinstance(client.error, DeadlineExceeded)
    assert str(client.error) == "request 'q1' passed its 30 s while running at node-of-r1"
    assert client.ids == [10]
    assert not case.nodes.last.is_open
    assert case.router.counts() == {"m": (0, 0)}


async def test_a_broken_connection_at_the_deadline_is_no_other_attempt(case: RoutingCase) -> None:
    case.add("r1")
    case.add("r2")
    client = case.ask(deadline_seconds=30.0)
    await case.settle()

    # grpc has its own clock, and may be a little early.
    await asyncio.sleep(29.9999)
    case.nodes.last.break_off(grpc.StatusCode.DEADLINE_EXCEEDED)
    await client.task

    assert isinstance(client.error, DeadlineExceeded)


async def test_the_first_token_of_a_replica_is_told_once(case: RoutingCase) -> None:
    first, second = case.ask("q1"), case.ask("q2")
    await asyncio.sleep(5.0)
    case.add("r1", concurrency=2)
    await case.settle()

    for attempt in case.nodes.attempts:
        attempt.send(10)
        await asyncio.sleep(1.0)
        attempt.finish(11)
    await asyncio.wait([first.task, second.task])

    # It waited 5 s for the replica; the second request and further tokens do not count.
    [(replica, seconds)] = case.link.first_tokens
    assert replica == "r1"
    assert seconds == pytest.approx(5.0, abs=0.01)


async def test_the_first_token_counts_only_for_who_waited(case: RoutingCase) -> None:
    case.add("r1")
    client = case.ask("q1")
    await case.settle()
    case.nodes.last.finish(10)
    await client.task

    assert case.link.first_tokens == []


async def test_the_first_token_is_not_told_again_where_a_replica_stays_after_all(
    case: RoutingCase,
) -> None:
    first = case.ask("q1")
    await case.settle()
    case.add("r1")
    await case.settle()
    case.nodes.last.send(10)
    await case.settle()

    case.remove("r1")
    waiting = case.ask("q2")
    await case.settle()
    case.add("r1", concurrency=2)
    await case.settle()
    case.nodes.last.finish(20)
    await waiting.task

    assert len(case.link.first_tokens) == 1
    await first.leave()


async def test_a_request_that_goes_on_elsewhere_has_its_first_token_behind_it(
    case: RoutingCase,
) -> None:
    case.add("r1")
    client = case.ask("q1")
    await case.settle()
    case.nodes.last.send(10)
    await case.settle()
    case.remove("r1", is_lost=True)
    await asyncio.sleep(5.0)

    case.add("r2")
    await case.settle()
    case.nodes.last.finish(11)
    await client.task

    assert client.ids == [10, 11]
    assert case.link.first_tokens == []
