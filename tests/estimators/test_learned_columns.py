from __future__ import annotations

from operator import attrgetter

import pytest

from pilotlight.estimators.calibration import Learned
from pilotlight.estimators.learned_columns import LearnedColumn

P10 = attrgetter("p10")


def test_a_column_shows_what_is_known_and_what_was_probed_of_the_rest() -> None:
    learned = Learned(1.0)
    learned.observe("b", 8.0)

    column = LearnedColumn(learned, ["a", "b", "c"], bad_case=P10, priors=[4.0, 4.0, 0.0])

    # Nothing is as fast as the probe of "c" says, so the prior holds.
    assert column.values[0].tolist() == pytest.approx([4.0, 8.0, 1.0])
    assert (column.values[1] < column.values[0]).all()


def test_a_lesson_changes_its_row_and_leaves_what_was_handed_out() -> None:
    learned = Learned(1.0)
    column = LearnedColumn(learned, ["a", "b"], bad_case=P10)
    before = column.values

    learned.observe("b", 5.0)
    column.learn("b")

    assert before[0].tolist() == [1.0, 1.0]
    assert column.values[0].tolist() == pytest.approx([1.0, 5.0])
    assert column.values[1, 1] == learned.get("b").p10


def test_a_lesson_on_another_key_changes_nothing() -> None:
    column = LearnedColumn(Learned(1.0), ["a"], bad_case=P10)
    before = column.values

    column.learn("elsewhere")

    assert column.values is before


def test_the_last_row_is_of_those_without_a_key() -> None:
    column = LearnedColumn(Learned(1.0), ["a"], bad_case=P10, without_key=float("inf"))

    assert column.values[:, -1].tolist() == [float("inf"), float("inf")]
