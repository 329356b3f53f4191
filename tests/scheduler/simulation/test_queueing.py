"""The engine against closed forms of queueing theory, and against another engine."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Generator
from dataclasses import replace

import numpy as np
import pytest
import simpy
from tests.scheduler.simulation.clusters import DELAYS, Cluster

from pilotlight.scheduler.policies import ServerlessLLM
from pilotlight.scheduler.simulation import (
    Discipline,
    EventHeap,
    LinearTimes,
    Network,
    VirtualChannel,
)
from pilotlight.scheduler.simulation.network import Transfer
from pilotlight.scheduler.testing.reports import model_of

BYTES_PER_SECOND = 1e9
N_TRANSFERS = 200_000


def _mean_seconds(
    *, discipline: Discipline, load: float, size_seconds: Callable[[random.Random], float]
) -> float:
    """Return the mean time of Poisson transfers on one channel, waiting included."""
    heap = EventHeap()
    network = Network(heap)
    channel = VirtualChannel(name="c", bytes_per_second=BYTES_PER_SECOND, discipline=discipline)
    draw = random.Random(12)
    seconds: list[float] = []

    def done(transfer: Transfer) -> None:
        seconds.append(heap.now - transfer.submitted_at)

    def arrive(n: int) -> None:
        n_bytes = round(size_seconds(draw) * BYTES_PER_SECOND)
        network.begin((channel,), n_bytes, done)
        if n > 1:
            heap.call_at(heap.now + draw.expovariate(load), arrive, n - 1)

    arrive(N_TRANSFERS)
    while heap.run_next(float("inf")):
        pass
    return float(np.mean(seconds))


def _exponential(draw: random.Random) -> float:
    return draw.expovariate(1.0)


def _uniform(draw: random.Random) -> float:
    return draw.uniform(0.5, 1.5)


@pytest.mark.property
@pytest.mark.parametrize(
    ("size_seconds", "second_moment"),
    [(_exponential, 2.0), (_uniform, 1.0 + 1.0 / 12.0)],
    ids=["exponential", "uniform"],
)
def test_a_channel_in_turn_is_an_m_g_1_queue(
    size_seconds: Callable[[random.Random], float], second_moment: float
) -> None:
    load = 0.5

    mean = _mean_seconds(discipline=Discipline.IN_TURN, load=load, size_seconds=size_seconds)

    # Pollaczek and Khinchine.
    assert mean == pytest.approx(1.0 + load * second_moment / (2.0 * (1.0 - load)), rel=0.02)


@pytest.mark.property
@pytest.mark.parametrize("size_seconds", [_exponential, _uniform], ids=["exponential", "uniform"])
def test_a_shared_channel_is_a_processor_sharing_queue(
    size_seconds: Callable[[random.Random], float],
) -> None:
    load = 0.5

    mean = _mean_seconds(discipline=Discipline.SHARED, load=load, size_seconds=size_seconds)

    # Whatever the sizes are distributed like.
    assert mean == pytest.approx(1.0 / (1.0 - load), rel=0.02)


def _events_here(jobs: list[tuple[float, int, float]]) -> list[tuple[str, int]]:
    """Return what happens to these (arrival, channel, seconds) in order, by this engine."""
    heap = EventHeap()
    network = Network(heap)
    channels = [
        VirtualChannel(name=str(row), bytes_per_second=BYTES_PER_SECOND) for row in range(2)
    ]
    seen: list[tuple[str, int]] = []

    def arrive(number: int) -> None:
        _, channel, seconds = jobs[number]
        seen.append(("arrives", number))
        network.begin(
            (channels[channel],),
            round(seconds * BYTES_PER_SECOND),
            lambda _: seen.append(("is done", number)),
        )

    for number, (at, _, _) in enumerate(jobs):
        heap.call_at(at, arrive, number)
    heap.run_until(1e6)
    return seen


def _events_in_simpy(jobs: list[tuple[float, int, float]]) -> list[tuple[str, int]]:
    environment = simpy.Environment()
    channels = [simpy.Resource(environment, capacity=1) for _ in range(2)]
    seen: list[tuple[str, int]] = []

    def job(number: int) -> Generator[simpy.Event]:
        at, channel, seconds = jobs[number]
        yield environment.timeout(at)
        seen.append(("arrives", number))
        with channels[channel].request() as turn:
            yield turn
            yield environment.timeout(seconds)
        seen.append(("is done", number))

    for number in range(len(jobs)):
        environment.process(job(number))
    environment.run()
    return seen


def test_events_come_in_the_order_in_which_simpy_has_them() -> None:
    draw = random.Random(3)
    # On a grid of milliseconds no two events of different times are mistaken for one another.
    jobs = [
        (round(draw.uniform(0.0, 300.0), 3), draw.randrange(2), round(draw.uniform(0.1, 1.9), 3))
        for _ in range(400)
    ]

    ours, theirs = _events_here(jobs), _events_in_simpy(jobs)

    assert len(ours) == 800
    assert ours == theirs


def _erlang_c(servers: int, load: float) -> float:
    """Return the probability that a request of an M/M/c queue has to wait."""
    terms = [load**n / math.factorial(n) for n in range(servers)]
    full = load**servers / math.factorial(servers) * servers / (servers - load)
    return full / (sum(terms) + full)


@pytest.mark.property
def test_a_replica_with_three_slots_is_an_m_m_3_queue() -> None:
    servers, load, n_requests = 3, 1.5, 150_000
    cluster = Cluster(
        ServerlessLLM(),
        [model_of("m", min_replicas=1, max_replicas=1, concurrency=servers)],
        serve_times=LinearTimes(prefill_fixed_seconds=0.0),
        delays=replace(DELAYS, timeout_seconds=float("inf")),
    )
    draw, at = random.Random(5), 100.0
    for _ in range(n_requests):
        at += draw.expovariate(load)
        cluster.request("m", at, serve_seconds=draw.expovariate(1.0))

    waits = cluster.run().ledger.start_seconds()

    assert waits.mean() == pytest.approx(_erlang_c(servers, load) / (servers - load), rel=0.02)
    assert (waits > 0.0).mean() == pytest.approx(_erlang_c(servers, load), rel=0.02)
