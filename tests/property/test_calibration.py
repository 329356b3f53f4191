from __future__ import annotations

import json
import math

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pilotlight.estimators.calibration import LEAST, MOST, Learned, LogNormal

pytestmark = pytest.mark.property

ANY = st.floats()
PLAUSIBLE = st.floats(LEAST, MOST)


@given(prior=PLAUSIBLE, values=st.lists(ANY))
def test_quantiles_stay_finite_and_in_order_whatever_is_measured(
    prior: float, values: list[float]
) -> None:
    known = LogNormal.prior(prior)
    for value in values:
        known.observe(value)

        assert 0.0 < known.p10 <= known.p50 <= known.p90 < math.inf


@given(prior=PLAUSIBLE, values=st.lists(PLAUSIBLE, min_size=1))
def test_the_median_lies_among_what_was_measured(prior: float, values: list[float]) -> None:
    known = LogNormal.prior(prior)
    for value in values:
        known.observe(value)

    assert min(values) * 0.999 <= known.p50 <= max(values) * 1.001


@given(prior=PLAUSIBLE, before=st.lists(PLAUSIBLE, max_size=8), value=PLAUSIBLE)
def test_a_measurement_moves_the_median_towards_itself(
    prior: float, before: list[float], value: float
) -> None:
    known = LogNormal.prior(prior)
    for earlier in before:
        known.observe(earlier)
    distance = abs(math.log(value) - known.mean)

    known.observe(value)

    assert abs(math.log(value) - known.mean) <= distance + 1e-9


@given(measurements=st.lists(st.tuples(st.sampled_from("abc"), ANY)), later=ANY)
def test_what_was_learned_survives_json_bit_by_bit(
    measurements: list[tuple[str, float]], later: float
) -> None:
    known = Learned(2.0)
    for key, value in measurements:
        known.observe(key, value)

    again = msgspec.convert(json.loads(json.dumps(msgspec.to_builtins(known))), Learned)

    assert again == known
    again.observe("a", later)
    known.observe("a", later)
    assert again == known
