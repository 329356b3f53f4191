from __future__ import annotations

import math
import random
import statistics

import pytest

from pilotlight.scheduler.simulation.noise import MOST_DEVIATIONS, draw_factor, least_factor


def test_factors_spread_around_one_and_have_ends() -> None:
    draw = random.Random(1)

    factors = [draw_factor(draw, 0.2) for _ in range(20_000)]

    logarithms = [math.log(factor) for factor in factors]
    assert statistics.fmean(logarithms) == pytest.approx(0.0, abs=0.01)
    assert statistics.stdev(logarithms) == pytest.approx(0.2, rel=0.03)
    assert min(factors) == pytest.approx(least_factor(0.2))
    assert max(factors) == pytest.approx(math.exp(MOST_DEVIATIONS * 0.2))


def test_without_spread_everything_takes_what_it_should() -> None:
    assert draw_factor(random.Random(1), 0.0) == 1.0
    assert least_factor(0.0) == 1.0
