"""The soonest node is found without a look at all of them."""

from __future__ import annotations

import numpy as np
import pytest

from pilotlight.estimators import Estimator
from pilotlight.scheduler.core.plan import Plan
from pilotlight.scheduler.core.snapshot import Snapshot
from pilotlight.scheduler.policies import Draft
from pilotlight.scheduler.simulation.runs import prepare
from pilotlight.scheduler.simulation.scenarios import load_scenario


class Checking:
    """Plans as `serverlessllm` does, and compares each choice with the least of all."""

    name = "checking"

    def __init__(self) -> None:
        self.n_choices = 0
        self.n_with_victims = 0

    def plan(self, snapshot: Snapshot, estimator: Estimator) -> Plan:
        draft = Draft(snapshot, estimator.timeline(snapshot))
        for model in draft.wanted_starts():
            seconds = draft.first_token_seconds(model)
            nodes = np.flatnonzero(np.isfinite(seconds))
            node = draft.soonest(model)
            assert node == (int(nodes[seconds[nodes].argmin()]) if nodes.size else None)
            if node is not None:
                without_stops = draft.timeline.first_token_seconds(model)[node]
                self.n_choices += 1
                self.n_with_victims += not np.isfinite(without_stops)
                draft.start(model, node)
        return draft.finish()


@pytest.mark.property
@pytest.mark.parametrize("seed", range(3))
def test_the_soonest_is_the_least_of_all(seed: int) -> None:
    # Copies in few places and models of two devices: often nothing is free where a copy lies.
    scenario = load_scenario(
        "quick",
        changes={
            "cluster.nodes[0].count": 5,
            "cluster.nodes[0].devices": 3,
            "cluster.nodes[0].dram_gb": 6.0,
            "models[0].count": 12,
            "models[0].max_replicas": 6,
            "models[0].devices": 1 + seed % 2,
            "models[0].copies": {"placed": "round_robin", "each": 3},
            "workload.parts[0].arrivals.requests_per_second": 4.0,
            "workload.duration_seconds": 60,
        },
    )
    built, policy = scenario.build(seed), Checking()
    simulation = prepare(built, policy)

    simulation.feed(built.arrivals)
    simulation.run()

    assert policy.n_choices > 50
    assert policy.n_with_victims > 5
