from __future__ import annotations

import math
from itertools import islice, pairwise

import numpy as np
import pytest

from pilotlight.scheduler.simulation.workload import (
    Draws,
    ExactSource,
    FunctionSource,
    GammaSource,
    InvalidWorkload,
    Seeds,
    Source,
    draw_counts,
    weighted_shares,
    zipf_shares,
)
from pilotlight.scheduler.simulation.workload.counts import Counts, rebinned

MINUTES = 10


def functions(rate: float = 2.0, of_minutes: float = 0.0, **fields: object) -> FunctionSource:
    def counts(seeds: Seeds) -> Counts:
        return draw_counts(
            seeds.generator(Draws.FUNCTIONS),
            n_models=8,
            n_functions=100,
            zipf_exponent=1.0,
            calls_per_minute=500.0,
            n_minutes=MINUTES,
            cv=of_minutes,
        )

    return FunctionSource(counts=counts, requests_per_second=rate, **fields)  # type: ignore[arg-type]  # as the test says


def gamma(rate: float = 2.0, cv: float = 1.0) -> GammaSource:
    return GammaSource(requests_per_second=rate, popularity=zipf_shares(8, 1.0), cv=cv)


SOURCES = [gamma(), functions(), functions(of_minutes=4.0, cv=1.0), functions(bursts="cluster")]


@pytest.mark.parametrize("source", SOURCES)
def test_the_same_seed_gives_the_same_requests_and_another_one_others(source: Source) -> None:
    first, again, other = (list(source.timed(Seeds(seed), 600.0)) for seed in (1, 1, 2))

    assert first == again
    assert first != other
    assert all(before[0] <= after[0] for before, after in pairwise(first))


@pytest.mark.parametrize("source", SOURCES)
def test_another_part_of_a_workload_draws_other_requests(source: Source) -> None:
    assert list(source.timed(Seeds(1, 0), 600.0)) != list(source.timed(Seeds(1, 1), 600.0))


@pytest.mark.parametrize("source", SOURCES)
def test_models_get_their_shares(source: Source) -> None:
    found = np.zeros(8)
    for seed in range(20):
        for _, model in source.timed(Seeds(7, seed), 600.0):
            found[model] += 1
    expected = np.mean([source.shares(Seeds(7, seed)) for seed in range(20)], axis=0)

    # Bursts of CV 8 leave a good deal to chance: of 24,000 requests, 8 * sqrt(24,000) or 5 %.
    assert found.sum() == pytest.approx(20 * 600 * 2.0, rel=0.2)
    assert np.abs(found / found.sum() - expected).max() < 0.06


def test_one_more_model_leaves_the_others_requests_as_they_are() -> None:
    few, more = (
        GammaSource(requests_per_second=rate, popularity=weighted_shares([1.0] * n, n))
        for n, rate in ((2, 2.0), (3, 3.0))
    )

    found = np.array([each for each in more.timed(Seeds(1), 100.0) if each[1] < 2])

    assert found == pytest.approx(np.array(list(few.timed(Seeds(1), 100.0))))


@pytest.mark.parametrize("source", [gamma(cv=8.0), functions(), functions(bursts="cluster")])
def test_an_exact_rate_is_met_to_the_last_request_by_stretching_time(source: Source) -> None:
    exact = ExactSource(source=source, requests_per_second=1.4)

    found = list(exact.timed(Seeds(3), 660.0))
    longer = list(islice(source.timed(Seeds(3), math.inf), len(found)))

    assert len(found) == 924  # 1.4 * 660
    assert found[-1][0] <= 660.0
    pace = found[-1][0] / longer[-1][0]
    assert [at for at, _ in found] == pytest.approx([at * pace for at, _ in longer])
    assert [model for _, model in found] == [model for _, model in longer]


def test_functions_make_bursts_within_each_interval() -> None:
    times = [at for at, model in functions(8.0).timed(Seeds(1), 3600.0) if model == 0]
    smooth = [at for at, model in functions(8.0, cv=1.0).timed(Seeds(1), 3600.0) if model == 0]

    def burstiness(found: list[float]) -> float:
        gaps = np.diff(found)
        return float(gaps.std() / gaps.mean())

    assert burstiness(smooth) < 2.0
    assert burstiness(times) > 3.0


def test_after_the_last_interval_the_first_one_comes_again() -> None:
    source = functions(20.0, cv=1.0)
    counts = source.counts(Seeds(1))
    expected = counts[0] / counts.sum(axis=1).mean() * 20.0 * 60.0

    found = np.zeros(8)
    for at, model in source.timed(Seeds(1), 60.0 * (MINUTES + 1)):
        if at >= 60.0 * MINUTES:
            found[model] += 1

    assert found == pytest.approx(expected, abs=6.0 * math.sqrt(expected.max()))


def test_minutes_are_summed_up_to_intervals() -> None:
    counts = np.array([[1, 10], [2, 20], [3, 30], [4, 40], [5, 50]])

    assert rebinned(counts, 2).tolist() == [[3, 30], [7, 70], [5, 50]]


def test_made_up_functions_are_few_that_are_called_much_and_many_that_hardly_are() -> None:
    counts = draw_counts(
        np.random.default_rng(1),
        n_models=1000,
        n_functions=1000,
        zipf_exponent=1.0,
        calls_per_minute=1000.0,
        n_minutes=60,
    )
    calls = np.sort(counts.sum(axis=0))[::-1]

    # The sum of 1 / rank is 7.49 up to 1000, so the first has 13 % of all.
    assert calls.sum() == pytest.approx(60_000, rel=0.05)
    assert calls[0] / calls.sum() == pytest.approx(1.0 / 7.49, rel=0.1)
    assert calls[500] < 30


def test_functions_that_are_never_called_leave_their_place_to_the_next() -> None:
    counts = draw_counts(
        np.random.default_rng(1),
        n_models=4,
        n_functions=10_000,
        zipf_exponent=3.0,
        calls_per_minute=50.0,
        n_minutes=2,
    )

    # Hardly five of the ten thousand are called, and they are for different models.
    assert np.all(counts.sum(axis=0) > 0)


@pytest.mark.parametrize("cv", [0.5, 2.0, 8.0])
def test_a_made_up_functions_rate_varies_from_minute_to_minute_as_much_as_is_said(
    cv: float,
) -> None:
    counts = draw_counts(
        np.random.default_rng(1),
        n_models=200,
        n_functions=200,
        zipf_exponent=0.0,
        calls_per_minute=200_000.0,
        n_minutes=2000,
        cv=cv,
    )
    next_one, one = counts[1:].ravel(), counts[:-1].ravel()

    # The mean of 400,000 draws has a standard error of cv / 632, 1.3 % at a CV of 8.
    assert counts.mean() == pytest.approx(1000.0, rel=0.05)
    # The Poisson counts of a mean of 1000 add 0.032 ** 2 to the square of the CV.
    assert counts.std() / counts.mean() == pytest.approx(math.hypot(cv, 0.032), rel=0.05)
    # One minute says nothing of the next.
    assert abs(np.corrcoef(one, next_one)[0, 1]) < 0.01


def test_made_up_functions_whose_rates_vary_have_the_same_means_in_the_same_order() -> None:
    def of(cv: float, n_minutes: int) -> Counts:
        return draw_counts(
            np.random.default_rng(1),
            n_models=10,
            n_functions=10,
            zipf_exponent=1.0,
            calls_per_minute=100_000.0,
            n_minutes=n_minutes,
            cv=cv,
        )

    steady, varying = of(0.0, 10), of(1.0, 4000)

    # The standard error of a mean is 1 / sqrt(4000), 1.6 %.
    assert varying.mean(axis=0) == pytest.approx(steady.mean(axis=0), rel=0.08)


@pytest.mark.parametrize("cv", [-1.0, math.nan, math.inf])
def test_a_variation_of_minutes_that_is_no_number_from_zero_on_is_refused(cv: float) -> None:
    with pytest.raises(InvalidWorkload, match=r"^cv: .* is not a number from 0 on$"):
        draw_counts(
            np.random.default_rng(1),
            n_models=1,
            n_functions=1,
            zipf_exponent=0.0,
            calls_per_minute=1.0,
            n_minutes=1,
            cv=cv,
        )


def test_a_function_source_brings_minutes_apart_and_stays_even_within_them() -> None:
    # Two minutes for one model, of which one has all requests.
    source = FunctionSource(
        counts=lambda _: np.array([[0], [600]]), requests_per_second=5.0, cv=1.0
    )

    found = np.array([at for at, _ in source.timed(Seeds(1), 1200.0)])

    assert np.all((found // 60.0) % 2 == 1)
    # Poisson counts of six seconds with 10 requests a second: variance 60, mean 60; of
    # a hundred such counts the ratio has a standard error of sqrt(2 / 100).
    in_busy = np.histogram(found, bins=np.arange(0.0, 1201.0, 6.0))[0]
    in_busy = in_busy[in_busy > 0]
    assert len(in_busy) == 100
    assert in_busy.var() / in_busy.mean() == pytest.approx(1.0, abs=4 * math.sqrt(2 / 100))


@pytest.mark.parametrize("rate", [0.0, -1.0, math.nan])
def test_a_rate_that_is_no_number_above_zero_is_refused(rate: float) -> None:
    with pytest.raises(InvalidWorkload, match=r"^requests_per_second: "):
        gamma(rate)
    with pytest.raises(InvalidWorkload, match=r"^requests_per_second: "):
        functions(rate)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([1.0], "weights: there are 1 of them for 2 models"),
        ([1.0, -2.0], "weights[1]: -2.0 is not a number from 0 on"),
        ([0.0, 0.0], "weights: all of them are 0, so there are no requests"),
    ],
)
def test_weights_that_make_no_sense_are_refused(weights: list[float], message: str) -> None:
    with pytest.raises(InvalidWorkload) as caught:
        weighted_shares(weights, 2)

    assert str(caught.value) == message


def test_popularity_falls_by_zipfs_law() -> None:
    assert zipf_shares(3, 1.0) == pytest.approx([6 / 11, 3 / 11, 2 / 11])
    assert zipf_shares(4, 0.0) == pytest.approx([0.25] * 4)
