from __future__ import annotations

import random
from collections.abc import Sequence

import msgspec
import pytest

from pilotlight.estimators import StartEstimator
from pilotlight.scheduler.core.core import Core
from pilotlight.scheduler.core.model import Model
from pilotlight.scheduler.policies import Policy, RandomNode, ServerlessLLM
from pilotlight.scheduler.simulation import Arrival, Served, Simulation, VirtualNode
from pilotlight.scheduler.simulation.event_heap import EventHeap
from pilotlight.scheduler.simulation.simulation import COMMAND_SECONDS, PERSIST_SECONDS
from pilotlight.scheduler.simulation.virtual_node import REPORT_SECONDS, Speeds
from pilotlight.scheduler.testing.reports import model_of
from pilotlight.store_node.protocol import ModelId, NodeId

GIGABYTE = 10**9
SPEEDS = Speeds(disk_bytes_per_second=1.0e9, attach_seconds=0.0)
"""Then a start takes 1 s per gigabyte and 0.05 s to bind, and a first token 0.1 s more."""

DECISION_SECONDS = PERSIST_SECONDS + COMMAND_SECONDS
"""From demand until a node has its command."""


def _simulation(
    policy: Policy,
    models: Sequence[Model],
    *,
    held: Sequence[Model] | None = None,
    nodes: int = 1,
    devices: int = 1,
    dram_bytes: int = 100 * GIGABYTE,
) -> Simulation:
    heap = EventHeap()
    simulation = Simulation(core=Core(estimator=StartEstimator()), policy=policy, heap=heap)
    simulation.begin(
        models,
        [
            VirtualNode(
                id=NodeId(f"node-{row}"),
                heap=heap,
                devices=devices,
                dram_bytes=dram_bytes,
                checkpoints={
                    model.reference: model.size_bytes
                    for model in (models if held is None else held)
                },
                speeds=SPEEDS,
            )
            for row in range(nodes)
        ],
    )
    simulation.run_until(1.0)
    return simulation


def _request(simulation: Simulation, model: str, at: float, *, serve_seconds: float = 1.0) -> None:
    simulation.request(Arrival(at=at, model=ModelId(model), serve_seconds=serve_seconds))


def _waits(served: Sequence[Served]) -> list[float]:
    return [each.first_token_at - each.arrival.at for each in served]


def _busy_day(policy: Policy, *, seed: int, n_requests: int = 60) -> Simulation:
    """Return a run in which eight models of 1 to 8 GB contend for six devices."""
    models = [
        model_of(f"m{n}", size_bytes=n * GIGABYTE, keep_alive_seconds=5.0) for n in range(1, 9)
    ]
    simulation = _simulation(policy, models, nodes=3, devices=2, dram_bytes=8 * GIGABYTE)
    draw = random.Random(seed)
    for _ in range(n_requests):
        _request(
            simulation,
            draw.choice(models).name,
            draw.uniform(1.0, 100.0),
            serve_seconds=draw.uniform(0.5, 3.0),
        )
    simulation.run_until(2000.0)
    return simulation


def test_a_cold_start_takes_what_its_parts_take() -> None:
    simulation = _simulation(ServerlessLLM(), [model_of("m", size_bytes=2 * GIGABYTE)])
    _request(simulation, "m", 2.0)

    simulation.run_until(10.0)

    # Decision, 2 s of transfer, 0.05 s of bind, the report, and 0.1 s of prefill.
    (wait,) = _waits(simulation.served)
    assert wait == pytest.approx(DECISION_SECONDS + 2.05 + REPORT_SECONDS + 0.1)


def test_a_warm_request_waits_for_nothing_but_its_prefill() -> None:
    simulation = _simulation(ServerlessLLM(), [model_of("m")])
    _request(simulation, "m", 2.0)
    _request(simulation, "m", 10.0)

    simulation.run_until(20.0)

    assert _waits(simulation.served)[1] == pytest.approx(0.1)


def test_starts_that_arrive_faster_than_the_disk_reads_queue_as_they_must() -> None:
    # Five models of 1 GB, one every 0.4 s: the disk's n-th load ends n seconds after the first
    # decision, so the n-th request waits n - 0.4 (n - 1) s and the constant rest.
    models = [model_of(f"m{n}") for n in range(5)]
    simulation = _simulation(ServerlessLLM(), models, devices=5)
    for n in range(5):
        _request(simulation, f"m{n}", 2.0 + 0.4 * n)

    simulation.run_until(20.0)

    rest = DECISION_SECONDS + 0.05 + REPORT_SECONDS + 0.1
    expected = [(n + 1) - 0.4 * n + rest for n in range(5)]
    assert _waits(simulation.served) == pytest.approx(expected, abs=1e-3)


def test_what_is_estimated_is_what_is_measured() -> None:
    models = [model_of(f"m{n}") for n in range(3)]
    simulation = _simulation(ServerlessLLM(), models, devices=3)
    for n in range(3):
        _request(simulation, f"m{n}", 2.0)

    simulation.run_until(2.1)

    # One after the other on one disk: READY after 1.05, 2.05 and 3.05 s.
    estimates = [
        replica.estimated.ready_seconds
        for replica in simulation.core.state.replicas.values()
        if replica.estimated
    ]
    assert estimates == pytest.approx([1.05, 2.05, 3.05], abs=0.01)


def test_ten_requests_for_a_cold_model_cause_one_start() -> None:
    simulation = _simulation(ServerlessLLM(), [model_of("m", concurrency=0)], devices=4)
    for _ in range(10):
        _request(simulation, "m", 2.0)

    simulation.run_until(30.0)

    assert len(simulation.served) == 10
    starts = [event for _, event in simulation.recorded if type(event).__name__ == "Acked"]
    assert len(starts) == 1


def test_requests_are_served_in_the_order_of_their_arrival() -> None:
    simulation = _simulation(ServerlessLLM(), [model_of("m")])
    for n in range(5):
        _request(simulation, "m", 2.0 + n * 0.01)

    simulation.run_until(30.0)

    arrivals = [each.arrival.at for each in simulation.served]
    assert arrivals == sorted(arrivals)


def test_a_model_that_no_node_holds_is_refused_with_a_reason() -> None:
    simulation = _simulation(ServerlessLLM(), [model_of("nowhere")], held=[])
    _request(simulation, "nowhere", 20.0)

    simulation.run_until(30.0)

    (served,) = simulation.served
    assert (served.node, served.refusal) == (None, "no node holds a usable copy of nowhere")


@pytest.mark.parametrize("policy", [ServerlessLLM(), RandomNode()], ids=lambda each: each.name)
def test_every_request_is_served_or_refused_with_a_reason(policy: Policy) -> None:
    simulation = _busy_day(policy, seed=1)

    assert len(simulation.served) == 60
    assert all(each.node is not None or each.refusal for each in simulation.served)


@pytest.mark.parametrize("policy", [ServerlessLLM(), RandomNode()], ids=lambda each: each.name)
def test_a_run_is_the_same_every_time(policy: Policy) -> None:
    one, other = _busy_day(policy, seed=2), _busy_day(policy, seed=2)

    assert one.served == other.served
    assert one.recorded == other.recorded
    assert msgspec.json.encode(one.core.state) == msgspec.json.encode(other.core.state)


def test_what_a_run_recorded_replays_to_the_same_state() -> None:
    simulation = _busy_day(ServerlessLLM(), seed=3)
    core = Core(estimator=StartEstimator())

    for now, event in simulation.recorded:
        core.handle(event, now)

    assert msgspec.json.encode(core.state) == msgspec.json.encode(simulation.core.state)


def test_the_core_holds_together_on_the_way() -> None:
    simulation = _busy_day(ServerlessLLM(), seed=4)
    core = Core(estimator=StartEstimator())

    for now, event in simulation.recorded:
        core.handle(event, now)
        core.check_integrity()

    assert core.state.decisions == {}


@pytest.mark.property
def test_estimates_beat_chance_on_the_same_requests() -> None:
    gains: list[float] = []
    for seed in range(5):
        chosen, drawn = (
            _waits(_busy_day(policy, seed=seed).served)
            for policy in (ServerlessLLM(), RandomNode())
        )
        gains.append(sum(drawn) / len(drawn) - sum(chosen) / len(chosen))

    assert sum(gains) / len(gains) > 0.0
    assert sum(gain >= 0.0 for gain in gains) >= 4
