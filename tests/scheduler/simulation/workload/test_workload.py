from __future__ import annotations

import math
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from pilotlight.scheduler.simulation.arrivals import Arrival
from pilotlight.scheduler.simulation.workload import (
    DrawnSeconds,
    FixedTokens,
    GammaSource,
    InvalidWorkload,
    Part,
    Replay,
    Service,
    Workload,
    zipf_shares,
)
from pilotlight.store_node.protocol import ModelId


def part(
    name: str, n_models: int = 4, *, rate: float = 5.0, service: Service | None = None
) -> Part:
    return Part(
        name=name,
        models=[ModelId(f"{name}-{row}") for row in range(n_models)],
        source=GammaSource(requests_per_second=rate, popularity=zipf_shares(n_models, 1.0)),
        service=service or FixedTokens(prompt_tokens=7, output_tokens=9),
        weight=rate,
    )


def test_parts_are_merged_in_the_order_of_time() -> None:
    workload = Workload(parts=[part("a"), part("b", rate=15.0)], duration_seconds=100.0)

    found = list(workload.arrivals(1))

    assert all(before.at <= after.at for before, after in pairwise(found))
    of_b = sum(each.model.startswith("b") for each in found)
    assert of_b / len(found) == pytest.approx(0.75, abs=0.05)
    assert (found[0].prompt_tokens, found[0].output_tokens) == (7, 9)
    assert found[0].serve_seconds is None


def test_the_same_seed_gives_the_same_arrivals() -> None:
    workload = Workload(
        parts=[part("a", service=DrawnSeconds(mean_seconds=2.0, distribution="exponential"))],
        duration_seconds=100.0,
    )

    assert list(workload.arrivals(1)) == list(workload.arrivals(1))
    assert list(workload.arrivals(1)) != list(workload.arrivals(2))


def test_it_ends_with_its_seconds_or_its_requests_and_begins_when_it_may() -> None:
    by_time = Workload(parts=[part("a")], begins_at=50.0, duration_seconds=10.0)
    by_number = Workload(parts=[part("a")], begins_at=50.0, n_requests=10)

    timed, counted = list(by_time.arrivals(1)), list(by_number.arrivals(1))

    assert timed[0].at >= 50.0
    assert timed[-1].at < 60.0
    assert counted == timed[:10]


@pytest.mark.parametrize(
    ("distribution", "cv", "expected"),
    [("fixed", 1.0, 0.0), ("exponential", 1.0, 1.0), ("lognormal", 0.5, 0.5)],
)
def test_seconds_have_the_mean_and_spread_that_were_asked_for(
    distribution: str, cv: float, expected: float
) -> None:
    service = DrawnSeconds(
        mean_seconds=2.4,
        distribution=distribution,  # type: ignore[arg-type]  # a parameter is of type str
        cv=cv,
        tokens_per_second=10.0,
    )

    drawn = service.draw(np.random.default_rng(1), 100_000)

    assert drawn.serve_seconds is not None
    mean = drawn.serve_seconds.mean()
    assert mean == pytest.approx(2.4, rel=0.02)
    assert drawn.serve_seconds.std() / mean == pytest.approx(expected, abs=0.02)
    assert drawn.output_tokens.min() >= 1
    # Each has at least one token, which the shortest of them make some more of.
    assert drawn.output_tokens.mean() == pytest.approx(24.0, rel=0.04)


def test_shares_are_those_of_the_parts_by_their_rates() -> None:
    shares = Workload(parts=[part("a", 1), part("b", 2, rate=15.0)]).shares(1)

    # Three quarters of all are for b, of these two thirds for its first model.
    assert shares == pytest.approx({"a-0": 0.25, "b-0": 0.5, "b-1": 0.25})


def test_a_replayed_trace_says_how_long_its_requests_are(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("arrival_s,input_tokens,output_tokens\n1,10,20\n")
    replay = Replay(file=path, popularity=zipf_shares(1, 0.0))
    workload = Workload(parts=[Part(name="t", models=[ModelId("m")], source=replay)], begins_at=2.0)

    assert list(workload.arrivals(1)) == [
        Arrival(at=3.0, model=ModelId("m"), prompt_tokens=10, output_tokens=20)
    ]


def test_a_workload_without_requests_is_refused() -> None:
    with pytest.raises(InvalidWorkload, match=r"^parts: there are none"):
        Workload(parts=[])
    rare = Workload(parts=[part("a", rate=1e-9)], duration_seconds=1.0)
    with pytest.raises(InvalidWorkload, match=r"^a: there are no requests; let it last longer"):
        list(rare.arrivals(1))


def test_a_part_says_how_long_its_requests_are() -> None:
    source = GammaSource(requests_per_second=1.0, popularity=zipf_shares(1, 0.0))

    with pytest.raises(InvalidWorkload, match="nothing says how long its requests are"):
        Part(name="a", models=[ModelId("m")], source=source)


def test_arrivals_of_two_thousand_models_are_drawn_fast_and_without_end() -> None:
    workload = Workload(
        parts=[part("a", 2000, rate=500.0, service=DrawnSeconds(mean_seconds=1.0))],
        duration_seconds=math.inf,
        n_requests=30_000,
    )

    begun = time.process_time()
    n_arrivals = sum(1 for _ in workload.arrivals(1))
    seconds = time.process_time() - begun

    # Some 300,000 a second were measured; tens of thousands are what is needed.
    assert n_arrivals == 30_000
    assert seconds < 3.0
