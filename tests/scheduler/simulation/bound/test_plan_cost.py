from __future__ import annotations

import numpy as np
import pytest

from pilotlight.scheduler.core.plan import Migrate, Plan, Preempt, Start, StepId, Stop
from pilotlight.scheduler.policies import ServerlessLLM
from pilotlight.scheduler.simulation.bound import BoundInputError, plan_cost
from pilotlight.scheduler.testing import Case
from pilotlight.store_node.protocol import ModelId, NodeId, ReplicaId, ReplicaState, RequestId, Tier

ALONE = 1.0 + 0.002 + 0.05 + 0.1
"""A gigabyte from disk, attached, bound, and the prompt computed: no measurements, the priors."""


def _start(number: int, model: str, node: str = "node-1") -> Start:
    return Start(
        id=StepId(f"start-{number}"), model=ModelId(model), node=NodeId(node), tier=Tier.SSD
    )


def test_a_start_serves_as_many_as_it_takes_at_once() -> None:
    case = Case()
    case.model("m", concurrency=2, max_replicas=4)
    case.node(devices=2, holds=["m"])
    case.requests("m", 3)

    cost = plan_cost(
        case.snapshot(), case.estimator, Plan(steps=(_start(1, "m"),)), unplaced_seconds=60.0
    )

    assert cost.first_token_seconds == pytest.approx([ALONE, ALONE, 60.0])
    assert cost.total_seconds == pytest.approx(2 * ALONE + 60.0)


def test_steps_count_in_their_order() -> None:
    case = Case()
    case.node(devices=2, holds=["m", "n"])
    case.requests("m")
    case.requests("n", 1)
    snapshot = case.snapshot()

    cost = plan_cost(snapshot, case.estimator, Plan(steps=(_start(1, "m"), _start(2, "n"))))

    assert cost.first_token_seconds == pytest.approx([ALONE, ALONE + 1.0])


def test_costs_what_a_policy_has_estimated() -> None:
    case = Case()
    node = case.node(devices=1, holds=["m", "idle"])
    case.replica("idle", node, idle_seconds=5.0)
    case.requests("m")
    plan = case.plan(ServerlessLLM())
    estimated = next(step.estimated for step in plan.steps if isinstance(step, Start))

    cost = plan_cost(case.snapshot(), case.estimator, plan)

    assert estimated is not None
    assert cost.total_seconds == pytest.approx(estimated.ready_seconds + estimated.prefill_seconds)


def test_starts_beyond_a_models_replicas_take_nobody() -> None:
    case = Case()
    case.model("m", max_replicas=1)
    case.node(devices=2, holds=["m"])
    case.requests("m", 2)

    cost = plan_cost(case.snapshot(), case.estimator, Plan(steps=(_start(1, "m"), _start(2, "m"))))

    assert cost.first_token_seconds == pytest.approx([ALONE, 300.0])


def test_starts_without_devices_or_where_they_fail_take_nobody() -> None:
    case = Case()
    busy, broken = case.node(holds=["m"]), case.node(holds=["m"])
    case.replica("other", busy)
    case.failed("m", broken)
    case.requests("m")

    plan = Plan(steps=(_start(1, "m", busy.id), _start(2, "m", broken.id)))

    assert plan_cost(case.snapshot(), case.estimator, plan).total_seconds == 300.0


def test_a_preempted_replica_gives_its_devices() -> None:
    case = Case()
    node = case.node(holds=["m", "busy"])
    replica = case.replica("busy", node)
    case.requests("m")

    plan = Plan(steps=(Preempt(id=StepId("preempt"), replica=replica), _start(1, "m")))

    # 0.1 s of teardown, then the load.
    assert plan_cost(case.snapshot(), case.estimator, plan).total_seconds == pytest.approx(
        ALONE + 0.1
    )


def test_a_replica_that_is_stopped_twice_gives_its_devices_once() -> None:
    case = Case()
    case.model("m", max_replicas=2)
    node = case.node(holds=["m", "idle"])
    replica = case.replica("idle", node, idle_seconds=5.0)
    case.requests("m", 2)

    stops = [Stop(id=StepId(f"stop-{number}"), replica=replica) for number in range(2)]
    cost = plan_cost(
        case.snapshot(), case.estimator, Plan(steps=(*stops, _start(1, "m"), _start(2, "m")))
    )

    assert cost.first_token_seconds == pytest.approx([ALONE + 0.1, 300.0])


def test_requests_that_a_start_under_way_will_take_are_left_out() -> None:
    case = Case()
    node = case.node(devices=2, holds=["m"])
    case.model("m", concurrency=2, max_replicas=2)
    case.replica("m", node, state=ReplicaState.STARTING)
    case.requests("m", 2)

    cost = plan_cost(case.snapshot(), case.estimator, Plan())

    assert len(cost.first_token_seconds) == 0
    assert np.isnan(cost.mean)


def test_a_plan_that_moves_requests_is_not_judged() -> None:
    case = Case()
    case.node()
    step = Migrate(
        id=StepId("move"),
        request=RequestId("r"),
        source=ReplicaId("a"),
        destination=ReplicaId("b"),
    )

    with pytest.raises(BoundInputError, match="moves requests"):
        plan_cost(case.snapshot(), case.estimator, Plan(steps=(step,)))
