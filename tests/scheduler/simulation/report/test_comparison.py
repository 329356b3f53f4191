from __future__ import annotations

import math

import pytest
from tests.scheduler.simulation.clusters import Cluster

from pilotlight.scheduler.policies import Policy, RandomNode, ServerlessLLM
from pilotlight.scheduler.simulation.report import RunResult, compare, result_of
from pilotlight.scheduler.simulation.report.comparison import interval_of
from pilotlight.scheduler.testing.reports import model_of


def _run(policy: Policy, seed: int) -> RunResult:
    cluster = Cluster(policy, [model_of("m")], nodes=2)
    for number in range(seed + 1):
        cluster.request("m", 2.0 + 30.0 * number)
    return result_of(cluster.run(), cluster.channels, scenario="s", policy=policy.name, seed=seed)


def test_an_interval_is_students() -> None:
    interval = interval_of([1.0, 2.0, 3.0])

    # Two degrees of freedom: 4.303 standard errors of 1 / sqrt(3).
    assert interval.mean == 2.0
    assert interval.high - 2.0 == pytest.approx(4.303 / math.sqrt(3.0))
    assert 2.0 - interval.low == pytest.approx(interval.high - 2.0)


def test_one_run_alone_has_no_interval() -> None:
    interval = interval_of([5.0])

    assert interval.mean == 5.0
    assert math.isnan(interval.low)
    assert math.isnan(interval.high)


def test_policies_are_compared_over_their_seeds() -> None:
    results = [_run(policy, seed) for policy in (RandomNode(), ServerlessLLM()) for seed in (0, 1)]

    random, serverlessllm = compare(results)

    assert [random.policy, serverlessllm.policy] == ["random", "serverlessllm"]
    assert (random.seeds, serverlessllm.seeds) == (2, 2)
    assert serverlessllm.figures["requests"].mean == 1.5
    assert serverlessllm.figures["starts_from_ssd"].mean == 1.0
    assert serverlessllm.figures["warm_requests"].mean == 0.5
    assert serverlessllm.figures["start_p99_seconds"].mean == pytest.approx(1.054)
