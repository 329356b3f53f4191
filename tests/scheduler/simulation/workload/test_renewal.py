from __future__ import annotations

import math

import numpy as np
import pytest

from pilotlight.scheduler.simulation.workload import InvalidWorkload
from pilotlight.scheduler.simulation.workload.renewal import (
    GammaGaps,
    Gaps,
    WeibullGaps,
    renewal_times,
)


def times(gaps: Gaps, rate: float, end: float, *, seed: int = 1) -> np.ndarray:
    blocks = list(
        renewal_times(
            np.random.default_rng(seed), gaps, requests_per_second=rate, begin=5.0, end=end
        )
    )
    return np.concatenate(blocks) if blocks else np.zeros(0)


@pytest.mark.parametrize("gaps", [GammaGaps(1.0), GammaGaps(4.0), WeibullGaps(0.5)])
def test_times_grow_and_lie_in_their_span(gaps: Gaps) -> None:
    found = times(gaps, 10.0, 1_005.0)

    assert found[0] >= 5.0
    assert found[-1] < 1_005.0
    assert np.all(np.diff(found) >= 0.0)


@pytest.mark.parametrize(
    ("gaps", "cv"),
    [
        (GammaGaps(0.5), 0.5),
        (GammaGaps(1.0), 1.0),
        (GammaGaps(3.0), 3.0),
        # By its formula, sqrt(gamma(1 + 2 / k) / gamma(1 + 1 / k) ** 2 - 1), with k = 0.5.
        (WeibullGaps(0.5), math.sqrt(math.gamma(5.0) / math.gamma(3.0) ** 2 - 1.0)),
    ],
)
def test_gaps_have_the_rate_and_the_burstiness_that_was_asked_for(gaps: Gaps, cv: float) -> None:
    apart = np.diff(times(gaps, 20.0, 50_000.0))

    assert apart.mean() == pytest.approx(1.0 / 20.0, rel=0.03)
    assert apart.std() / apart.mean() == pytest.approx(cv, rel=0.05)


@pytest.mark.parametrize("gaps", [GammaGaps(8.0), WeibullGaps(0.3)])
def test_the_mean_number_is_rate_times_length_from_the_first_second_on(gaps: Gaps) -> None:
    counts = [len(times(gaps, 0.5, 15.0, seed=seed)) for seed in range(20_000)]

    # 10 s at 0.5 requests per second. One that began with a request would have some 30 more.
    assert np.mean(counts) == pytest.approx(5.0, rel=0.1)


def test_a_rate_of_zero_has_no_requests() -> None:
    assert len(times(GammaGaps(1.0), 0.0, 1e9)) == 0


@pytest.mark.parametrize("cv", [0.0, -1.0, math.nan, math.inf])
def test_a_burstiness_that_is_no_number_above_zero_is_refused(cv: float) -> None:
    with pytest.raises(InvalidWorkload, match=r"^cv: .* is not a number above 0"):
        GammaGaps(cv)
