from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from tests.scheduler.simulation.clusters import (
    GIGABYTE,
    PREFILL_SECONDS,
    TIMES,
    Cluster,
    copy_of,
    machine_of,
)

from pilotlight.scheduler.core.model import Model
from pilotlight.scheduler.policies import Policy, RandomNode, ServerlessLLM
from pilotlight.scheduler.simulation import Arrival, Delays
from pilotlight.scheduler.simulation.bound import BoundInputError, run_bound, run_problem
from pilotlight.scheduler.testing.reports import model_of
from pilotlight.store_node.protocol import ModelId


def _asks(*times: float, model: str = "m", serve_seconds: float | None = 1.0) -> list[Arrival]:
    return [Arrival(at=at, model=ModelId(model), serve_seconds=serve_seconds) for at in times]


def test_a_start_is_as_short_as_disk_and_worker_allow() -> None:
    machine = machine_of([copy_of("m", 2 * GIGABYTE)])

    problem = run_problem(_asks(0.0), [model_of("m", size_bytes=2 * GIGABYTE)], [machine])

    # 2 GB at 1 GB/s and 0.05 s to bind; from memory 0.1 s of the worker and 0.05 s.
    assert problem.first_start_seconds == pytest.approx([2.05])
    assert problem.next_start_seconds == pytest.approx([0.15])
    assert problem.prefill_seconds == pytest.approx([0.1])
    assert problem.hold_seconds == pytest.approx([1.1])
    assert problem.n_devices == 2


def test_the_best_machine_counts() -> None:
    held = [copy_of("m")]
    slow, quick = machine_of(held), machine_of(held, times=replace(TIMES, bind_seconds=0.01))
    empty = machine_of([], times=replace(TIMES, bind_seconds=0.0))

    problem = run_problem(_asks(0.0), [model_of("m")], [slow, quick, empty])

    assert problem.first_start_seconds == pytest.approx([1.01])
    assert problem.n_devices == 6


def test_noise_makes_all_as_short_as_it_can() -> None:
    times = replace(TIMES, noise=0.1, transfer_noise=0.05, node_spread=0.02)
    noisy = machine_of([copy_of("m")], times=times)

    problem = run_problem(_asks(0.0), [model_of("m")], [noisy])

    # Three deviations below: of the bytes' second, and of what workers do.
    worker = math.exp(-0.3)
    assert problem.first_start_seconds == pytest.approx(
        [math.exp(-0.15 - 0.06) + worker * TIMES.bind_seconds]
    )
    assert problem.next_start_seconds == pytest.approx(
        [worker * (TIMES.warm_worker_seconds + TIMES.bind_seconds)]
    )
    assert problem.prefill_seconds == pytest.approx([worker * PREFILL_SECONDS])


def test_what_is_in_dram_before_it_is_asked_for_starts_from_there() -> None:
    models = [model_of("m"), model_of("n")]

    problem = run_problem(
        [*_asks(0.0), *_asks(1.0, model="n")],
        models,
        [machine_of([copy_of("m"), copy_of("n")])],
        in_dram=[models[1].name],
    )

    assert problem.first_start_seconds == pytest.approx([1.05, 0.15])


def test_models_of_one_checkpoint_may_find_it_in_memory() -> None:
    twins = [replace(model_of("m"), name=ModelId(name)) for name in ("m", "twin")]

    problem = run_problem(_asks(0.0), twins, [machine_of([copy_of("m")])])

    assert problem.first_start_seconds[0] == pytest.approx(0.15)


def test_tokens_take_their_time_where_nothing_else_is_said() -> None:
    arrival = Arrival(at=0.0, model=ModelId("m"), output_tokens=11)

    problem = run_problem([arrival], [model_of("m")], [machine_of([copy_of("m")])])

    # 0.1 s to the first token, ten more of 0.025 s each.
    assert problem.hold_seconds == pytest.approx([0.35])


def test_models_with_a_minimum_may_run_unasked() -> None:
    models = [model_of("m", min_replicas=1), model_of("n")]
    machine = machine_of([copy_of("m"), copy_of("n")])

    problem = run_problem(_asks(0.0), models, [machine])

    assert problem.is_kept.tolist() == [True, False]


def test_requests_for_nothing_are_refused() -> None:
    machine = machine_of([copy_of("m")], devices=1)

    with pytest.raises(BoundInputError, match="no model other"):
        run_problem(_asks(0.0, model="other"), [model_of("m")], [machine])
    with pytest.raises(BoundInputError, match="no machine with 2 devices holds m"):
        run_problem(_asks(0.0), [model_of("m", devices=2)], [machine])


@pytest.mark.parametrize("make", [ServerlessLLM, RandomNode])
@pytest.mark.parametrize("has_links", [False, True])
def test_no_policy_beats_the_bound_on_the_simulated_cluster(
    make: Callable[[], Policy], has_links: bool
) -> None:
    for seed in range(5):
        draw = np.random.default_rng(seed)
        models = [
            model_of(
                f"m{row}",
                size_bytes=int(draw.integers(1, 8)) * GIGABYTE,
                max_replicas=3,
                concurrency=int(draw.choice([1, 2])),
                keep_alive_seconds=float(draw.choice([0.0, 10.0])),
            )
            for row in range(6)
        ]
        cluster = _simulated(make(), models, draw, has_links=has_links)

        simulation = cluster.run()

        requests = sorted(cluster.requests, key=lambda each: each.at)
        machines = [node.machine for node in simulation.nodes.values()]
        bound = run_bound(run_problem(requests, models, machines))
        seconds = np.sort(simulation.ledger.first_token_seconds())
        assert not np.isnan(seconds).any()
        assert 0.0 < bound.total_seconds <= seconds.sum()
        assert (seconds >= bound.first_token_seconds - 1e-9).all()


def _simulated(
    policy: Policy, models: list[Model], draw: np.random.Generator, *, has_links: bool
) -> Cluster:
    delays = Delays(timeout_seconds=1e6)
    cluster = Cluster(policy, models, nodes=2, devices=2, delays=delays, has_links=has_links)
    for at in np.sort(draw.uniform(2.0, 200.0, 60)).tolist():
        model = models[int(draw.integers(len(models)))]
        cluster.request(model.name, at, serve_seconds=float(draw.exponential(2.0)))
    return cluster
