from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from prometheus_client import generate_latest

from pilotlight.estimators import Estimator
from pilotlight.scheduler.core.actions import (
    AnyRouteUpdate,
    ModelRefused,
    Persist,
    RequestPlan,
    RouteAdded,
    RouteRemoved,
)
from pilotlight.scheduler.core.events import (
    DemandChanged,
    ModelDeleted,
    NodeJoined,
    Persisted,
    PersistFailed,
    PlanProposed,
    Refused,
    TimerFired,
)
from pilotlight.scheduler.core.plan import Plan
from pilotlight.scheduler.core.snapshot import Snapshot
from pilotlight.scheduler.driver.testing import WALL, Call, DriverCase, hang
from pilotlight.scheduler.errors import LeadershipLost, StateUnavailable
from pilotlight.scheduler.policies import ServerlessLLM
from pilotlight.scheduler.store import PutDecision, PutReplica, PutStart, StartRecord
from pilotlight.scheduler.testing.reports import outcome_of
from pilotlight.scheduler.testing.rpc_errors import refused
from pilotlight.store_node.protocol import ModelId, ReplicaId, ReplicaState
from pilotlight.store_node.protocol.refusals import ErrorCode


class Watching:
    """The built-in policy, and the snapshots that it was asked about."""

    name = "watching"

    def __init__(self) -> None:
        self.snapshots: list[Snapshot] = []

    def plan(self, snapshot: Snapshot, estimator: Estimator) -> Plan:
        self.snapshots.append(snapshot)
        return ServerlessLLM().plan(snapshot, estimator)


def kinds(case: DriverCase) -> list[type[object]]:
    return [type(event) for event, _ in case.handled]


async def started(case: DriverCase, **fields: object) -> ReplicaId:
    """Let a request wait until a replica of a model is on its way."""
    case.deploy("m", **fields)
    case.join("a", holds=["m"])
    case.demand("m", 1)
    await asyncio.sleep(1.0)
    [replica] = case.replicas
    return replica.id


def kept_start(case: DriverCase) -> StartRecord:
    start: StartRecord = case.store.kept(PutStart)[-1].start
    return start


async def test_demand_becomes_a_command_to_a_node(case: DriverCase) -> None:
    case.deploy("m")
    case.join("a", holds=["m"])

    case.demand("m", 1)
    await asyncio.sleep(1.0)

    [call] = case.channels.calls
    assert (call.address, call.method) == ("a:9000", "StartReplica")
    assert (call.message.spec.model, call.message.spec.reference) == ("m", "m")
    [decision] = case.store.kept(PutDecision)
    assert decision.decision.policy == "serverlessllm"
    assert decision.decision.made_at == pytest.approx(WALL, abs=1.0)


async def test_nothing_is_sent_before_its_transaction_has_committed(case: DriverCase) -> None:
    case.store.seconds = 5.0
    case.deploy("m")
    case.join("a", holds=["m"])
    case.demand("m", 1)

    await asyncio.sleep(4.9)
    before = list(case.channels.calls)
    await asyncio.sleep(0.2)

    assert before == []
    assert len(case.channels.calls) == 1


async def test_events_of_one_moment_belong_on_one_snapshot(tmp_path: Path) -> None:
    policy = Watching()
    async with DriverCase.running(tmp_path, policy=policy) as case:
        case.deploy("m")
        case.deploy("n")
        case.join("a", holds=["m", "n"], devices=2)
        case.demand("m", 1)
        case.demand("n", 1)
        await case.settle()

    assert list(policy.snapshots[0].waiting) == [1, 1]


async def test_an_event_that_another_brings_about_is_handled_after_it(case: DriverCase) -> None:
    order: list[str] = []

    def tell(update: AnyRouteUpdate) -> None:
        order.append(type(update).__name__)
        if isinstance(update, RouteAdded):
            # As a router does, from within: its line is empty now.
            case.demand("m", 0)

    case.driver.subscribers.append(tell)
    replica = await started(case)
    case.handled.clear()

    case.report(case.driver.core.state.replicas[replica], ReplicaState.READY)

    assert order == ["RouteAdded"]
    assert kinds(case) == [type(case.handled[0][0]), DemandChanged]
    assert len(case.handled) == 2


async def test_routers_hear_of_routes(case: DriverCase) -> None:
    replica = await started(case)

    case.report(case.driver.core.state.replicas[replica], ReplicaState.READY)

    [route] = case.routes
    assert isinstance(route, RouteAdded)
    assert (route.replica, route.address) == (replica, "a:9000")


async def test_routers_hear_why_a_replica_is_lost(case: DriverCase) -> None:
    replica = await started(case)
    known = case.driver.core.state.replicas[replica]
    case.report(known, ReplicaState.READY)

    case.report(known, ReplicaState.FAILED, error="killed by 9", error_code="worker_died")

    assert case.routes[-1] == RouteRemoved(
        replica=replica, is_lost=True, reason="killed by 9", code="worker_died"
    )


async def test_routers_hear_that_a_model_is_gone(case: DriverCase) -> None:
    case.deploy("m")
    case.demand("m", 1)

    case.driver.post(ModelDeleted(model=ModelId("m")))

    assert case.routes == [ModelRefused(model=ModelId("m"), reason="it was deleted")]


async def test_what_a_node_refuses_reaches_the_core(case: DriverCase) -> None:
    async def answer(call: Call) -> object:
        raise refused(ErrorCode.DEVICES_BUSY, "its device is taken")

    case.channels.answer = answer  # type: ignore[assignment]  # it never answers
    case.deploy("m")
    case.join("a", holds=["m"])
    case.demand("m", 1)
    await asyncio.sleep(0.5)

    [event] = [event for event, _ in case.handled if isinstance(event, Refused)]
    assert (event.code, event.reason) == ("devices_busy", "its device is taken")


async def test_a_state_that_can_t_be_written_is_told_and_tried_again(case: DriverCase) -> None:
    case.deploy("m")
    case.join("a", holds=["m"])
    await case.settle()
    case.store.failure = StateUnavailable("the disk is full")

    case.demand("m", 1)
    await asyncio.sleep(0.5)
    failed = [event for event, _ in case.handled if isinstance(event, PersistFailed)]
    sent_before = list(case.channels.calls)
    case.store.failure = None
    await asyncio.sleep(5.0)

    assert {event.reason for event in failed} == {"the disk is full"}
    assert sent_before == []
    assert [call.method for call in case.channels.calls] == ["StartReplica"]


async def test_a_lost_lease_ends_everything(tmp_path: Path) -> None:
    async def run() -> None:
        async with DriverCase.running(tmp_path) as case:
            case.store.failure = LeadershipLost("epoch 1 has ended; epoch 2 leads")
            case.join("a")
            await asyncio.sleep(1.0)

    with pytest.raises(ExceptionGroup) as raised:
        await run()

    assert raised.group_contains(LeadershipLost)


async def test_a_timer_that_is_set_again_fires_once(case: DriverCase) -> None:
    replica = await started(case, keep_alive_seconds=5.0)
    known = case.driver.core.state.replicas[replica]
    case.report(known, ReplicaState.READY)
    case.demand("m", 0)
    case.idle(known)
    await asyncio.sleep(2.0)
    case.handled.clear()

    # The keep-alive begins anew with each plan, under the same name.
    for _ in range(3):
        case.demand("m", 0)
        await case.settle()
    await asyncio.sleep(3.1)

    fired = [event for event, _ in case.handled if isinstance(event, TimerFired)]
    assert [event.timer for event in fired] == ["replan:idle"]


async def test_a_timer_of_the_past_fires_at_once(case: DriverCase) -> None:
    replica = await started(case, keep_alive_seconds=0.0)
    known = case.driver.core.state.replicas[replica]
    case.report(known, ReplicaState.READY)
    case.demand("m", 0)
    case.idle(known)

    await asyncio.sleep(0.1)

    assert [call.method for call in case.channels.calls] == ["StartReplica", "StopReplica"]


async def test_the_first_token_is_kept_with_its_start(case: DriverCase) -> None:
    replica = await started(case)
    case.report(case.driver.core.state.replicas[replica], ReplicaState.READY)
    await case.settle()

    case.driver.first_token(replica, seconds=1.75)
    await case.settle()

    start = kept_start(case)
    assert (start.replica_id, start.first_token_seconds) == (replica, 1.75)
    assert start.measured is not None


async def test_the_first_token_stays_where_more_of_the_start_is_known(case: DriverCase) -> None:
    replica = await started(case)
    known = case.driver.core.state.replicas[replica]
    case.report(known, ReplicaState.READY)
    case.driver.first_token(replica, seconds=1.75)

    case.report(known, ReplicaState.READY, outcome=outcome_of(prefill_seconds=0.25))
    await case.settle()

    start = kept_start(case)
    assert start.first_token_seconds == 1.75
    assert start.measured is not None
    assert start.measured.prefill_seconds == 0.25


async def test_only_the_first_of_first_tokens_counts(case: DriverCase) -> None:
    replica = await started(case)
    case.report(case.driver.core.state.replicas[replica], ReplicaState.READY)
    case.driver.first_token(replica, seconds=1.75)

    case.driver.first_token(replica, seconds=9.0)
    await case.settle()

    assert kept_start(case).first_token_seconds == 1.75


async def test_the_first_token_of_a_replica_that_was_adopted_is_passed_over(
    case: DriverCase,
) -> None:
    case.driver.first_token(ReplicaId("r0-9"), seconds=1.0)
    await case.settle()

    assert case.store.kept(PutStart) == []


async def test_a_first_token_that_can_t_be_written_ends_nothing(case: DriverCase) -> None:
    replica = await started(case)
    case.report(case.driver.core.state.replicas[replica], ReplicaState.READY)
    await case.settle()
    case.store.failure = StateUnavailable("the disk is full")

    case.driver.first_token(replica, seconds=1.0)
    await case.settle()
    case.store.failure = None
    case.join("b")
    await case.settle()

    assert isinstance(case.handled[-1][0], Persisted)


async def test_what_happens_is_counted_and_shown_to_who_watches(case: DriverCase) -> None:
    watching = case.driver.watchers.watch()
    first = asyncio.ensure_future(anext(watching))
    await case.settle()

    case.join("a")
    seen = await first
    await watching.aclose()

    assert (seen.what.kind, seen.what.text) == ("node_up", "a is up with 0 checkpoints")
    assert seen.at == pytest.approx(WALL, abs=1.0)
    metrics = generate_latest(case.registry).decode()
    assert 'pilotlight_cluster_events_total{kind="node_up"} 1.0' in metrics


async def test_replicas_and_decisions_are_written_in_the_order_of_events(
    case: DriverCase,
) -> None:
    replica = await started(case)
    case.report(case.driver.core.state.replicas[replica], ReplicaState.READY)
    await case.settle()

    states = [put.replica.state for put in case.store.kept(PutReplica)]

    assert states == ["starting", "ready"]


async def test_a_closed_driver_hears_nothing_more(case: DriverCase) -> None:
    case.deploy("m")
    case.join("a", holds=["m"])
    await case.settle()
    n_handled = len(case.handled)

    case.driver.close()
    case.demand("m", 1)
    await asyncio.sleep(100.0)

    assert len(case.handled) == n_handled


async def test_closing_waits_for_no_node(tmp_path: Path) -> None:
    loop = asyncio.get_running_loop()
    async with DriverCase.running(tmp_path) as case:
        case.channels.answer = hang
        case.deploy("m")
        case.join("a", holds=["m"])
        case.demand("m", 1)
        await asyncio.sleep(0.5)
        began = loop.time()

    assert len(case.channels.calls) == 1
    assert loop.time() - began < 0.1


async def test_the_recording_has_every_event(case: DriverCase) -> None:
    await started(case)

    [file] = (case.directory / "recording").iterdir()

    assert len(file.read_bytes().splitlines()) == 1 + len(case.handled)


async def test_plans_are_answered_one_for_one(case: DriverCase) -> None:
    await started(case)

    asked = [action.plan_id for action in case.actions if isinstance(action, RequestPlan)]
    answered = [event.plan_id for event, _ in case.handled if isinstance(event, PlanProposed)]
    persists = [action.token for action in case.actions if isinstance(action, Persist)]
    persisted = [event.token for event, _ in case.handled if isinstance(event, Persisted)]

    assert asked == answered
    assert persists == persisted
    assert NodeJoined in kinds(case)
