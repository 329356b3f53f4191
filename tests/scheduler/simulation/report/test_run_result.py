from __future__ import annotations

import math

import pytest
from tests.scheduler.simulation.clusters import GIGABYTE, TIMES, Cluster

from pilotlight.scheduler.core.model import Model
from pilotlight.scheduler.policies import ServerlessLLM
from pilotlight.scheduler.simulation.report import RunResult, result_of
from pilotlight.scheduler.simulation.report.run_result import CURVE
from pilotlight.scheduler.testing.reports import model_of


def _result(cluster: Cluster) -> RunResult:
    return result_of(
        cluster.run(), cluster.channels, scenario="small", policy="serverlessllm", seed=1
    )


def _cluster(*models: Model, devices: int = 1) -> Cluster:
    return Cluster(ServerlessLLM(), models, devices=devices)


def test_a_cold_request_and_a_warm_one() -> None:
    cluster = _cluster(model_of("m"))
    cluster.request("m", 2.0)
    cluster.request("m", 5.0)

    result = _result(cluster)

    assert (result.requests, result.served, result.warm_requests) == (2, 2, 1)
    assert result.starts == {"ssd": 1}
    assert result.channel_bytes == {"disk@node-0": pytest.approx(GIGABYTE)}
    cold = 1.0 + TIMES.bind_seconds + 0.004
    assert result.start.percentiles["p50"] == 0.0
    assert result.start.percentiles["p99"] == pytest.approx(cold)
    assert result.start.mean == pytest.approx(cold / 2)
    assert result.start.curve[0] == 0.0
    assert result.start.curve[-1] == pytest.approx(cold)
    assert len(result.start.curve) == len(CURVE)
    assert result.pause.count == 0


def test_who_never_got_a_place_is_infinitely_late() -> None:
    cluster = _cluster(model_of("m"), model_of("too-large", devices=8))
    for _ in range(9):
        cluster.request("m", 2.0, serve_seconds=0.0)
    cluster.request("too-large", 2.0)

    result = _result(cluster)

    assert (result.served, result.refused) == (9, 1)
    assert result.start.percentiles["p90"] < 3.0
    assert math.isinf(result.start.percentiles["p95"])
    assert math.isfinite(result.start.mean)


def test_a_timeline_shows_each_replica_from_command_to_its_end() -> None:
    cluster = _cluster(model_of("m", keep_alive_seconds=1.0), model_of("n"))
    cluster.request("m", 2.0, serve_seconds=1.0)
    cluster.request("n", 10.0, serve_seconds=1.0)

    result = _result(cluster)

    first, second = result.spans
    assert (first.model, first.tier, first.node) == ("m", "ssd", "node-0")
    assert first.began_at == pytest.approx(2.001)
    assert first.ready_at == pytest.approx(3.054, abs=1e-3)
    # A prefill of 0.1 s, a second of tokens, one of keep-alive, and the teardown.
    assert first.ended_at == pytest.approx(3.054 + 0.1 + 1.0 + 1.0 + 0.2, abs=0.05)
    assert second.ended_at == result.simulated_seconds


def test_estimates_are_compared_with_what_starts_took() -> None:
    cluster = _cluster(model_of("m"))
    cluster.request("m", 2.0)

    result = _result(cluster)

    # Three milliseconds of command and report, less the two that attaching is believed to take.
    assert result.start_error_p50 == pytest.approx(0.001)
