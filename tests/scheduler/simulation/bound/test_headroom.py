from __future__ import annotations

import math

import pytest

from pilotlight.scheduler.simulation.bound import BoundInputError, headroom_closed


def test_is_the_share_of_the_way_from_the_baseline_to_the_bound() -> None:
    # (10 - 7) / (10 - 4)
    assert headroom_closed(baseline=10.0, ours=7.0, bound=4.0) == 0.5


def test_is_one_at_the_bound_and_negative_beyond_the_baseline() -> None:
    assert headroom_closed(baseline=10.0, ours=4.0, bound=4.0) == 1.0
    assert headroom_closed(baseline=10.0, ours=13.0, bound=4.0) == -0.5


def test_is_nothing_where_the_baseline_leaves_nothing_to_gain() -> None:
    assert math.isnan(headroom_closed(baseline=4.0, ours=4.0, bound=4.0))


@pytest.mark.parametrize(("baseline", "ours"), [(3.0, 5.0), (5.0, 3.0)])
def test_what_somebody_beats_is_no_bound(baseline: float, ours: float) -> None:
    with pytest.raises(BoundInputError, match="no bound"):
        headroom_closed(baseline=baseline, ours=ours, bound=4.0)
