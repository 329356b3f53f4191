from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pilotlight.scheduler.core.plan import Refuse, Start, Stop
from pilotlight.scheduler.core.snapshot import ReplicaCode
from pilotlight.scheduler.policies import Policy, RandomNode, ServerlessLLM
from pilotlight.scheduler.testing import PolicyContract
from pilotlight.scheduler.testing.clusters import random_case

pytestmark = [
    pytest.mark.property,
    pytest.mark.parametrize("policy", [ServerlessLLM(), RandomNode()], ids=lambda each: each.name),
]

seeds = st.integers(0, 2**32)


class _OneSeed(PolicyContract):
    def __init__(self, policy: Policy, seed: int) -> None:
        self.seeds = [seed]
        self._policy = policy

    def make_policy(self) -> Policy:
        return self._policy


@given(seed=seeds)
def test_a_plan_is_accepted_whole_on_any_cluster(policy: Policy, seed: int) -> None:
    _OneSeed(policy, seed).test_plans_what_the_core_accepts_whole()


@given(seed=seeds)
def test_a_plan_is_the_same_for_the_same_snapshot_of_any_cluster(policy: Policy, seed: int) -> None:
    _OneSeed(policy, seed).test_gives_equal_plans_for_equal_snapshots()


@given(seed=seeds)
def test_whoever_waits_is_started_refused_or_waits_for_a_reason(policy: Policy, seed: int) -> None:
    case = random_case(seed)
    snapshot = case.snapshot()
    plan = policy.plan(snapshot, case.estimator)
    answered = {step.model for step in plan.steps if isinstance(step, Start | Refuse)}
    free = snapshot.node_devices_free.copy()
    for step in plan.steps:
        if isinstance(step, Start):
            free[snapshot.node_row(step.node)] -= case.state.models[step.model].devices
        if isinstance(step, Stop):
            row = snapshot.replica_ids.index(step.replica)
            free[snapshot.replica_node[row]] += snapshot.replica_devices[row]

    assert (free >= np.minimum(snapshot.node_devices_free, 0)).all()
    for model in case.state.demand:
        row = snapshot.model_row(model)
        runs = (snapshot.replica_model == row) & ~snapshot.replica_is_stopping
        if model in answered or (runs & (snapshot.replica_state != ReplicaCode.DRAINING)).any():
            continue
        able = snapshot.can_start(row)
        assert (free[able] < snapshot.model_devices[row]).all(), f"{model} waits for nothing"


@given(seed=seeds)
def test_no_minimum_is_undercut(policy: Policy, seed: int) -> None:
    case = random_case(seed)
    snapshot = case.snapshot()
    stopped = {
        step.replica
        for step in policy.plan(snapshot, case.estimator).steps
        if isinstance(step, Stop)
    }

    for row, model in enumerate(snapshot.model_ids):
        runs = (snapshot.replica_model == row) & ~snapshot.replica_is_stopping
        before = [snapshot.replica_ids[replica] for replica in np.flatnonzero(runs)]
        after = [replica for replica in before if replica not in stopped]
        least = min(len(before), int(snapshot.model_min_replicas[row]))
        assert len(after) >= least, f"{model} falls below its minimum"


@given(seed=seeds)
def test_nobody_is_stopped_whose_requests_wait(policy: Policy, seed: int) -> None:
    case = random_case(seed)

    for step in policy.plan(case.snapshot(), case.estimator).steps:
        if isinstance(step, Stop):
            assert case.state.replicas[step.replica].model not in case.state.demand
