from __future__ import annotations

import pytest

from pilotlight.native_loader.bench.ratios import Ratio, interval, ratio_of


def test_a_ratio_is_the_median_over_rounds_that_have_both() -> None:
    theirs = {0: 2.0, 1: 3.0, 2: 8.0, 3: 100.0}
    ours = {0: 1.0, 1: 1.0, 2: 2.0, 4: 1.0}

    ratio = ratio_of(theirs, ours)

    # 2/1, 3/1 and 8/2.
    assert ratio is not None
    assert (ratio.median, ratio.n) == (3.0, 3)
    assert 2.0 <= ratio.low <= 3.0 <= ratio.high <= 4.0


def test_without_a_common_round_there_is_no_ratio() -> None:
    assert ratio_of({0: 1.0}, {1: 1.0}) is None


def test_one_round_is_its_own_interval() -> None:
    assert interval([1.5]) == (1.5, 1.5)


def test_the_interval_is_the_same_every_time_and_tells_spread() -> None:
    narrow = [1.0, 1.01, 0.99, 1.0, 1.02, 0.98, 1.0]
    wide = [1.0, 2.0, 0.5, 1.0, 3.0, 0.2, 1.0]

    assert interval(narrow) == interval(narrow)
    assert interval(narrow)[1] - interval(narrow)[0] < interval(wide)[1] - interval(wide)[0]


@pytest.mark.parametrize(
    ("median", "low", "is_ahead"),
    [(1.1, 1.05, True), (1.02, 0.98, True), (1.02, 0.97, False), (1.0, 0.99, False)],
)
def test_ahead_is_above_one_and_not_by_chance(median: float, low: float, is_ahead: bool) -> None:
    assert Ratio(median=median, low=low, high=2.0, n=7).is_ahead is is_ahead
