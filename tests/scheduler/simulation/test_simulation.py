from __future__ import annotations

import math
import random

import msgspec
import pytest
from tests.scheduler.simulation.clusters import (
    DECISION_SECONDS,
    DELAYS,
    GIGABYTE,
    PREFILL_SECONDS,
    TIMES,
    Cluster,
)

from pilotlight.estimators import StartEstimator
from pilotlight.scheduler.core.core import Core
from pilotlight.scheduler.core.events import NodeJoined
from pilotlight.scheduler.policies import Policy, RandomNode, ServerlessLLM
from pilotlight.scheduler.simulation import Ending, Simulation
from pilotlight.scheduler.testing.reports import model_of
from pilotlight.store_node.protocol import NodeId

FIXED_SECONDS = DECISION_SECONDS + TIMES.bind_seconds + TIMES.report_seconds
"""Of a start's time from request to place, beside what it reads and waits for."""


def _busy_day(policy: Policy, *, seed: int, n_requests: int = 60) -> Cluster:
    """Return a run in which eight models of 1 to 8 GB contend for six devices."""
    models = [
        model_of(f"m{n}", size_bytes=n * GIGABYTE, keep_alive_seconds=5.0) for n in range(1, 9)
    ]
    cluster = Cluster(policy, models, nodes=3, devices=2, dram_bytes=8 * GIGABYTE)
    draw = random.Random(seed)
    for _ in range(n_requests):
        cluster.request(
            draw.choice(models).name,
            draw.uniform(1.0, 100.0),
            serve_seconds=draw.uniform(0.5, 3.0),
        )
    cluster.run()
    return cluster


def _endings(simulation: Simulation) -> list[Ending]:
    return [Ending(each) for each in simulation.ledger.endings().tolist()]


def test_a_cold_start_takes_what_its_parts_take() -> None:
    cluster = Cluster(ServerlessLLM(), [model_of("m", size_bytes=2 * GIGABYTE)])
    cluster.request("m", 2.0)

    ledger = cluster.run().ledger

    assert ledger.start_seconds() == pytest.approx([2.0 + FIXED_SECONDS])
    assert ledger.first_token_seconds() == pytest.approx([2.0 + FIXED_SECONDS + PREFILL_SECONDS])


def test_a_warm_request_waits_for_nothing_but_its_prefill() -> None:
    cluster = Cluster(ServerlessLLM(), [model_of("m")])
    cluster.request("m", 2.0)
    cluster.request("m", 10.0)

    ledger = cluster.run().ledger

    assert ledger.start_seconds()[1] == 0.0
    assert ledger.first_token_seconds()[1] == pytest.approx(PREFILL_SECONDS)


def test_starts_that_arrive_faster_than_the_disk_reads_queue_as_they_must() -> None:
    # Five models of 1 GB, one every 0.4 s: the disk's n-th load ends n seconds after the first
    # decision, so the n-th request waits n - 0.4 (n - 1) s and the constant rest.
    models = [model_of(f"m{n}") for n in range(5)]
    cluster = Cluster(ServerlessLLM(), models, devices=5)
    for n in range(5):
        cluster.request(f"m{n}", 2.0 + 0.4 * n)

    ledger = cluster.run().ledger

    expected = [(n + 1) - 0.4 * n + FIXED_SECONDS for n in range(5)]
    assert ledger.start_seconds() == pytest.approx(expected, abs=1e-3)


def test_what_is_estimated_is_what_is_measured() -> None:
    models = [model_of(f"m{n}") for n in range(3)]
    cluster = Cluster(ServerlessLLM(), models, devices=3)
    for n in range(3):
        cluster.request(f"m{n}", 2.0)

    starts = cluster.run().tally.starts.values()

    # One after the other on one disk: READY after 1.05, 2.05 and 3.05 s.
    estimates = [start.estimated.ready_seconds for start in starts if start.estimated]
    assert estimates == pytest.approx([1.05, 2.05, 3.05], abs=0.01)
    assert [start.ready_seconds for start in starts] == pytest.approx(estimates, abs=0.02)


def test_ten_requests_for_a_cold_model_cause_one_start() -> None:
    cluster = Cluster(ServerlessLLM(), [model_of("m", concurrency=0)], devices=4)
    for _ in range(10):
        cluster.request("m", 2.0)

    simulation = cluster.run()

    assert _endings(simulation) == [Ending.SERVED] * 10
    assert len(simulation.tally.starts) == 1


def test_requests_are_served_in_the_order_of_their_arrival() -> None:
    cluster = Cluster(ServerlessLLM(), [model_of("m")])
    for n in range(5):
        cluster.request("m", 2.0 + n * 0.01)

    ledger = cluster.run().ledger

    assert list(ledger.placed_at) == sorted(ledger.placed_at)
    assert len(set(ledger.placed_at)) == 5


def test_a_model_that_no_node_holds_is_refused() -> None:
    cluster = Cluster(ServerlessLLM(), [model_of("nowhere")], held=[])
    cluster.request("nowhere", 20.0)

    simulation = cluster.run()

    assert _endings(simulation) == [Ending.REFUSED]
    assert math.isnan(simulation.ledger.start_seconds()[0])
    assert simulation.tally.published["refused"] == 1


def test_who_waits_too_long_leaves() -> None:
    cluster = Cluster(ServerlessLLM(), [model_of("m")])
    cluster.request("m", 2.0, serve_seconds=400.0)
    cluster.request("m", 3.0)

    simulation = cluster.run()

    assert _endings(simulation) == [Ending.SERVED, Ending.TIMED_OUT]
    assert simulation.ledger.ended_at[1] == pytest.approx(3.0 + DELAYS.timeout_seconds)


@pytest.mark.parametrize("policy", [ServerlessLLM(), RandomNode()], ids=lambda each: each.name)
def test_every_request_is_served(policy: Policy) -> None:
    simulation = _busy_day(policy, seed=1).simulation

    assert _endings(simulation) == [Ending.SERVED] * 60
    assert simulation.router.n_open == 0


@pytest.mark.parametrize("policy", [ServerlessLLM(), RandomNode()], ids=lambda each: each.name)
def test_a_run_is_the_same_every_time(policy: Policy) -> None:
    one, other = _busy_day(policy, seed=2), _busy_day(policy, seed=2)

    assert one.simulation.ledger == other.simulation.ledger
    assert one.recorded == other.recorded
    assert msgspec.json.encode(one.simulation.core.state) == msgspec.json.encode(
        other.simulation.core.state
    )


def test_what_a_run_recorded_replays_to_the_same_state() -> None:
    cluster = _busy_day(ServerlessLLM(), seed=3)
    core = Core(estimator=StartEstimator())

    for now, event in cluster.recorded:
        core.handle(event, now)

    assert msgspec.json.encode(core.state) == msgspec.json.encode(cluster.simulation.core.state)


def test_core_and_nodes_hold_together_on_the_way() -> None:
    cluster = _busy_day(ServerlessLLM(), seed=4)
    cluster.heap.run_until(cluster.heap.now + 60.0)
    core = Core(estimator=StartEstimator())

    for now, event in cluster.recorded:
        core.handle(event, now)
        core.check_integrity()
    for node in cluster.simulation.nodes.values():
        node.core.check_integrity()

    assert core.state.decisions == {}


def test_devices_are_counted_from_command_to_return() -> None:
    model = model_of("m", keep_alive_seconds=2.0)
    cluster = Cluster(ServerlessLLM(), [model])
    cluster.request("m", 2.0, serve_seconds=1.0)
    tally = cluster.run().tally
    under_way, _ = tally.device_seconds(cluster.heap.now)

    cluster.heap.run_until(20.0)
    whole, loading = tally.device_seconds(20.0)

    # A start of 1.05 s, a request of 1.1 s, 2 s of keep-alive, 0.2 s of teardown.
    assert under_way == pytest.approx(1.05 + 1.1, abs=0.01)
    assert loading == pytest.approx(1.05, abs=0.01)
    assert whole == pytest.approx(1.05 + 1.1 + 2.0 + 0.2, abs=0.1)


def test_a_node_that_dies_loses_nothing_but_time() -> None:
    cluster = Cluster(ServerlessLLM(), [model_of("m")], nodes=2)
    cluster.request("m", 2.0, serve_seconds=None, output_tokens=401)
    cluster.heap.call_at(8.2, lambda _: cluster.simulation.lose_node(_where_it_runs(cluster)), None)

    simulation = cluster.run()

    ledger = simulation.ledger
    assert _endings(simulation) == [Ending.SERVED]
    assert ledger.attempts[0] == 2
    # Known a second later; then a start from disk on the other node.
    assert ledger.paused[0] == pytest.approx(1.0 + FIXED_SECONDS, abs=0.01)
    # 400 tokens of 25 ms, two prefills, both starts, and a second that nobody knew.
    whole = 10.0 + 2 * PREFILL_SECONDS + 2 * (1.0 + FIXED_SECONDS) + 1.0
    assert ledger.ended_at[0] - 2.0 == pytest.approx(whole, abs=0.2)


def _where_it_runs(cluster: Cluster) -> NodeId:
    (replica,) = cluster.simulation.core.state.replicas.values()
    return replica.node


def test_a_node_comes_back_with_empty_memory_and_serves_again() -> None:
    cluster = Cluster(ServerlessLLM(), [model_of("m")])
    cluster.request("m", 2.0)
    cluster.request("m", 8.0)
    cluster.heap.call_at(
        5.0, lambda _: cluster.simulation.lose_node(NodeId("node-0"), back_after=2.0), None
    )

    simulation = cluster.run()

    assert _endings(simulation) == [Ending.SERVED] * 2
    assert [str(s.outcome.tier) for s in simulation.tally.starts.values() if s.outcome] == [
        "ssd",
        "ssd",
    ]
    joins = [event for _, event in cluster.recorded if isinstance(event, NodeJoined)]
    assert len({join.report.incarnation for join in joins}) == 2


def test_requests_that_come_before_a_nodes_death_is_known_are_served_elsewhere() -> None:
    cluster = Cluster(ServerlessLLM(), [model_of("m", max_replicas=2)], nodes=2)
    cluster.request("m", 2.0)
    for row in range(5):
        cluster.request("m", 8.1 + row * 0.1)
    cluster.heap.call_at(
        8.0,
        lambda _: cluster.simulation.lose_node(_where_it_runs(cluster), back_after=5.0),
        None,
    )

    simulation = cluster.run()

    assert _endings(simulation) == [Ending.SERVED] * 6
    # Nobody answers at 8.1, so another replica comes up from the other node's disk.
    assert min(simulation.ledger.placed_at[1:]) == pytest.approx(8.1 + 1.0 + FIXED_SECONDS)


def test_a_node_out_of_reach_for_a_moment_keeps_its_replicas() -> None:
    cluster = Cluster(ServerlessLLM(), [model_of("m")])
    cluster.request("m", 2.0)
    cluster.request("m", 8.0)
    cluster.heap.call_at(
        5.0, lambda _: cluster.simulation.cut_off(NodeId("node-0"), seconds=1.0), None
    )

    simulation = cluster.run()

    assert len(simulation.tally.starts) == 1
    assert simulation.ledger.start_seconds()[1] == 0.0


@pytest.mark.property
def test_estimates_beat_chance_on_the_same_requests() -> None:
    gains: list[float] = []
    for seed in range(5):
        chosen, drawn = (
            _busy_day(policy, seed=seed).simulation.ledger.start_seconds().mean()
            for policy in (ServerlessLLM(), RandomNode())
        )
        gains.append(drawn - chosen)

    assert sum(gains) / len(gains) > 0.0
    assert sum(gain >= 0.0 for gain in gains) >= 4
