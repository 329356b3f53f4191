from __future__ import annotations

import numpy as np
import pytest

from pilotlight.scheduler.core.tables import RowTable, Table


def _rows(*numbers: int) -> RowTable:
    table = RowTable({"whole": np.int64, "other": np.int64, "part": np.float64})
    for number in numbers:
        table.append((number, 10 * number), (number / 2,))
    return table


def test_a_column_that_somebody_holds_is_copied_before_it_is_written() -> None:
    table = Table({"x": np.zeros(3)})
    held = table.publish()["x"]

    table.writable("x")[1] = 7.0

    assert held.tolist() == [0.0, 0.0, 0.0]
    assert table.publish()["x"].tolist() == [0.0, 7.0, 0.0]


def test_a_column_of_which_somebody_holds_a_part_of_a_part_is_copied() -> None:
    table = Table({"x": np.zeros((3, 3))})
    part = table.publish()["x"][1][:2]

    table.writable("x")[1, 0] = 7.0

    assert part.tolist() == [0.0, 0.0]


def test_a_column_that_nobody_holds_is_written_in_place() -> None:
    table = Table({"x": np.zeros(3)})
    before = table.publish()["x"].ctypes.data

    table.writable("x")[1] = 7.0

    assert table.publish()["x"].ctypes.data == before


def test_what_was_published_can_not_be_written_to() -> None:
    table = Table({"x": np.zeros(3)})

    with pytest.raises(ValueError, match="read-only"):
        table.publish()["x"][0] = 1.0


def test_rows_move_up_where_one_is_removed() -> None:
    table = _rows(1, 2, 3, 4)

    table.remove(1)
    table.append((5, 50), (2.5,))
    table.write(0, (9, 90), (4.5,))

    columns = table.publish()
    assert columns["whole"].tolist() == [9, 3, 4, 5]
    assert columns["other"].tolist() == [90, 30, 40, 50]
    assert columns["part"].tolist() == [4.5, 1.5, 2.0, 2.5]


def test_there_is_room_for_any_number_of_rows() -> None:
    table = _rows(*range(100))

    assert table.publish()["whole"].tolist() == list(range(100))
    assert table.publish()["part"].tolist() == [number / 2 for number in range(100)]


def test_rows_that_somebody_holds_stay_as_they_were() -> None:
    table = _rows(1, 2, 3)
    held, part = table.publish()["whole"], table.publish()["part"][1:]

    table.remove(0)
    table.append((4, 40), (2.0,))

    assert held.tolist() == [1, 2, 3]
    assert part.tolist() == [1.0, 1.5]


def test_rows_that_nothing_changed_are_published_once() -> None:
    table = _rows(1, 2)

    assert table.publish()["whole"] is table.publish()["whole"]


def test_published_rows_can_not_be_written_to() -> None:
    table = _rows(1, 2)

    with pytest.raises(ValueError, match="read-only"):
        table.publish()["whole"][0] = 1
