from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pilotlight.native_loader.formats.parts import Place
from pilotlight.native_loader.memory.gaps import Gap, Gaps


def gaps_of(*gaps: Gap) -> Gaps:
    made = Gaps()
    for gap in gaps:
        made.give_back(gap)
    return made


def test_takes_from_the_narrowest_gap_that_is_wide_enough() -> None:
    gaps = gaps_of(Gap(1, 0, 9), Gap(1, 20, 4), Gap(2, 0, 5))

    assert gaps.take(5) == Place(chunk=2, offset=0)
    assert gaps.take(5) == Place(chunk=1, offset=0)
    assert list(gaps) == [Gap(1, 5, 4), Gap(1, 20, 4)]
    assert gaps.take(5) is None


def test_takes_from_the_lowest_of_equal_gaps() -> None:
    gaps = gaps_of(Gap(2, 0, 4), Gap(1, 8, 4), Gap(1, 0, 4))

    assert [gaps.take(4) for _ in range(3)] == [
        Place(chunk=1, offset=0),
        Place(chunk=1, offset=8),
        Place(chunk=2, offset=0),
    ]


def test_joins_what_touches_within_a_chunk() -> None:
    gaps = gaps_of(Gap(1, 0, 4), Gap(1, 8, 4), Gap(2, 0, 4))

    gaps.give_back(Gap(1, 4, 4))

    assert list(gaps) == [Gap(1, 0, 12), Gap(2, 0, 4)]
    gaps.remove(Gap(1, 0, 12))
    assert list(gaps) == [Gap(2, 0, 4)]


@pytest.mark.property
@given(st.lists(st.integers(1, 6), max_size=20), st.randoms(use_true_random=False))
def test_what_is_taken_and_given_back_in_any_order_is_whole_again(
    lengths: list[int], rng: random.Random
) -> None:
    gaps = gaps_of(Gap(3, 0, 16), Gap(4, 0, 16))
    taken = [(place, n) for n in lengths if (place := gaps.take(n)) is not None]

    units = [(p.chunk, p.offset + i) for p, n in taken for i in range(n)]
    units += [(gap.chunk, gap.offset + i) for gap in gaps for i in range(gap.length)]
    assert sorted(units) == [(chunk, i) for chunk in (3, 4) for i in range(16)]
    rng.shuffle(taken)
    for place, n in taken:
        gaps.give_back(Gap(place.chunk, place.offset, n))
    assert list(gaps) == [Gap(3, 0, 16), Gap(4, 0, 16)]
