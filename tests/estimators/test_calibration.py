from __future__ import annotations

import math

import pytest

from pilotlight.estimators.calibration import PRIOR_SIGMA, Learned, LogNormal

NONSENSE = [float("nan"), float("inf"), -float("inf"), 0.0, -1.0, 1e-320, 1e308]


def test_the_prior_stands_until_the_first_measurement() -> None:
    known = LogNormal.prior(4.0)

    assert known.p50 == pytest.approx(4.0)
    # The 90 % quantile lies 1.2816 standard deviations above the mean.
    assert known.p90 == pytest.approx(4.0 * math.exp(1.2815515655 * PRIOR_SIGMA))
    assert known.p10 == pytest.approx(4.0 / math.exp(1.2815515655 * PRIOR_SIGMA))


def test_the_first_measurement_replaces_the_prior() -> None:
    known = LogNormal.prior(1.0)

    assert known.observe(16.0)

    assert known.p50 == pytest.approx(16.0)


def test_one_measurement_says_nothing_of_the_spread() -> None:
    known = LogNormal.prior(1.0)

    known.observe(16.0)

    assert known.p90 / known.p50 == pytest.approx(math.exp(1.2815515655 * PRIOR_SIGMA))


def test_the_second_measurement_weighs_as_forgetting_says() -> None:
    known = LogNormal.prior(1.0)

    known.observe(1.0)
    known.observe(math.e)

    # Weights 0.8 and 1: the mean logarithm is (0.8 * 0 + 1 * 1) / 1.8.
    assert known.p50 == pytest.approx(math.exp(1.0 / 1.8))
    assert known.weight == pytest.approx(1.8)


def test_equal_measurements_narrow_the_spread() -> None:
    known = LogNormal.prior(1.0)

    for _ in range(20):
        known.observe(3.0)

    assert known.p50 == pytest.approx(3.0)
    assert known.p90 < 1.1 * known.p50


def test_a_disk_slowed_by_four_is_believed_within_a_handful_of_measurements() -> None:
    known = LogNormal.prior(2.0e9)
    for _ in range(50):
        known.observe(2.0e9)

    for _ in range(5):
        known.observe(0.5e9)

    # What is left of the old belief is at most 0.8 ** 5 = 0.33 of its logarithm:
    # 4 ** 0.33 = 1.58 times the new bandwidth.
    assert known.p50 < 0.5e9 * 1.6


@pytest.mark.parametrize("value", NONSENSE)
def test_nonsense_is_refused_and_changes_nothing(value: float) -> None:
    known = LogNormal.prior(2.0)
    known.observe(3.0)
    before = (known.mean, known.variance, known.weight)

    assert not known.observe(value)

    assert (known.mean, known.variance, known.weight) == before


@pytest.mark.parametrize("value", NONSENSE)
def test_a_first_measurement_that_is_nonsense_leaves_the_prior(value: float) -> None:
    known = Learned(2.0)

    assert not known.observe("disk", value)

    assert known.get("disk").p50 == pytest.approx(2.0)
    assert known.by_key == {}


def test_each_key_learns_for_itself() -> None:
    known = Learned(2.0)

    known.observe("a", 8.0)

    assert known.get("a").p50 == pytest.approx(8.0)
    assert known.get("b").p50 == pytest.approx(2.0)


def test_a_key_may_have_a_prior_of_its_own() -> None:
    known = Learned(2.0)

    assert known.get("probed", prior=32.0).p50 == pytest.approx(32.0)


@pytest.mark.parametrize("prior", [float("nan"), float("inf"), 0.0, -1.0, 1e308])
def test_a_prior_that_is_nonsense_gives_way_to_the_common_one(prior: float) -> None:
    known = Learned(2.0)

    assert known.get("probed", prior=prior).p50 == pytest.approx(2.0)
