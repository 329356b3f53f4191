from __future__ import annotations

import asyncio
import math
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from prometheus_client import CollectorRegistry, generate_latest

from pilotlight.estimators import Estimator, StartEstimator
from pilotlight.scheduler.core.plan import Plan, StepId, Stop
from pilotlight.scheduler.core.snapshot import Snapshot
from pilotlight.scheduler.driver.metrics import DriverMetrics
from pilotlight.scheduler.driver.planner import Planner, Proposal
from pilotlight.scheduler.driver.testing import DriverCase
from pilotlight.scheduler.policies import Policy, RandomNode, ServerlessLLM
from pilotlight.scheduler.store import PutDecision
from pilotlight.scheduler.testing import Case


class Answers:
    """A policy that raises, or answers with anything at all."""

    name = "answers"

    def __init__(self, answer: Any) -> None:
        self._answer = answer

    def plan(self, snapshot: Snapshot, estimator: Estimator) -> Plan:
        if isinstance(self._answer, Exception):
            raise self._answer
        answer: Plan = self._answer
        return answer


def plan(policy: Policy, fallback: Policy, registry: CollectorRegistry | None = None) -> Proposal:
    case = Case()
    case.node(devices=1, holds=["m"])
    case.requests("m", 1)
    ticks = iter([10.0, 10.25])
    planner = Planner(
        policy,
        fallback=fallback,
        metrics=DriverMetrics(registry or CollectorRegistry()),
        clock=lambda: next(ticks),
    )
    return planner.plan(case.snapshot(), StartEstimator())


def test_the_configured_policy_plans() -> None:
    proposal = plan(ServerlessLLM(), RandomNode())

    assert (proposal.policy, proposal.failure) == ("serverlessllm", "")
    assert len(proposal.plan.steps) == 1


def test_a_policy_that_raises_is_replaced_for_that_plan() -> None:
    proposal = plan(Answers(KeyError("m")), RandomNode())

    assert proposal.policy == "random"
    assert proposal.failure == "policy answers failed: KeyError('m')"
    assert len(proposal.plan.steps) == 1


@pytest.mark.parametrize("answer", [None, [], "start m"])
def test_a_policy_that_returns_no_plan_is_replaced_too(answer: object) -> None:
    proposal = plan(Answers(answer), RandomNode())

    assert proposal.policy == "random"
    assert proposal.failure.startswith("policy answers failed: TypeError")
    assert len(proposal.plan.steps) == 1


@pytest.mark.parametrize(
    "answer",
    [
        Plan(replan_at=cast(Any, "soon")),
        Plan(replan_at=cast(Any, object())),
        Plan(steps=cast(Any, ("start m",))),
        Plan(steps=(Stop(id=StepId("a"), replica=cast(Any, 7)),)),
    ],
)
def test_a_plan_of_the_wrong_types_is_none(answer: Plan) -> None:
    assert plan(Answers(answer), RandomNode()).policy == "random"


def test_a_plan_may_hold_numbers_of_numpy() -> None:
    proposal = plan(Answers(Plan(replan_at=cast(Any, np.float64(12.5)))), RandomNode())

    assert (proposal.policy, proposal.failure) == ("answers", "")
    assert type(proposal.plan.replan_at) is float
    assert proposal.plan.replan_at == 12.5


def test_a_plan_that_is_to_be_made_again_at_no_time_never_is() -> None:
    assert plan(Answers(Plan(replan_at=math.nan)), RandomNode()).plan == Plan()


def test_where_both_fail_nothing_is_done_and_both_are_named() -> None:
    proposal = plan(Answers(KeyError("m")), Answers(ValueError("n")))

    assert proposal.plan == Plan()
    assert proposal.failure == (
        "policy answers failed: KeyError('m'); policy answers failed: ValueError('n')"
    )


def test_the_time_that_a_plan_took_is_measured() -> None:
    registry = CollectorRegistry()

    plan(ServerlessLLM(), RandomNode(), registry)

    assert "pilotlight_decision_seconds_sum 0.25" in generate_latest(registry).decode()


async def test_a_cluster_goes_on_where_its_policy_fails(tmp_path: Path) -> None:
    async with DriverCase.running(tmp_path, policy=Answers(KeyError("m"))) as case:
        case.deploy("m")
        case.join("a", holds=["m"])
        case.demand("m", 1)
        await asyncio.sleep(1.0)

        assert [call.method for call in case.channels.calls] == ["StartReplica"]
        assert case.store.kept(PutDecision)[-1].decision.policy == "random"
