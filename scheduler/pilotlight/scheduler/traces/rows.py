"""Rows of a file, one after another, with the rules that all traces share."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Sequence
from typing import NoReturn

from pilotlight.scheduler.errors import quoted
from pilotlight.scheduler.traces.files import TraceFile

_MOST_DIGITS = 18
"""What fits into 64 bits."""


class Row:
    """One row of a table; a field that breaks a rule is a BrokenTrace."""

    __slots__ = ("_columns", "_fields", "_file", "number")

    def __init__(
        self, file: TraceFile, number: int, columns: Sequence[str], fields: Sequence[str]
    ) -> None:
        self._file = file
        self._columns = columns
        self._fields = fields
        self.number = number

    def text(self, column: int) -> str:
        """Return a field that is not empty."""
        field = self._fields[column]
        if not field:
            self.fail(f"{self._columns[column]} is empty")
        return field

    def count(self, column: int) -> int:
        """Return a whole number, 0 or more."""
        if not _are_counts(self._fields[column : column + 1]):
            self.wrong(column, "a count")
        return int(self._fields[column])

    def counts(self, first: int) -> tuple[int, ...]:
        """Return whole numbers from one column on; one look at all of them, where all are right."""
        fields = self._fields[first:]
        if _are_counts(fields):
            return tuple(map(int, fields))
        return tuple(self.count(column) for column in range(first, len(self._fields)))

    def amount(self, column: int) -> float:
        """Return a finite number, 0 or more."""
        try:
            value = float(self._fields[column])
        except ValueError:
            self.wrong(column, "a number")
        if not 0.0 <= value < math.inf:
            self.wrong(column, "a number from 0 on")
        return value

    def field(self, column: int) -> str:
        """Return a field as it is."""
        return self._fields[column]

    def wrong(self, column: int, wanted: str) -> NoReturn:
        """Say that a field is not what it should be."""
        self.fail(f"{self._columns[column]} is {quoted(self._fields[column])}, not {wanted}")

    def fail(self, rule: str) -> NoReturn:
        """Say that this row breaks a rule."""
        raise self._file.broken(rule, row=self.number)


def read_table(
    file: TraceFile, columns: Sequence[str], *, has_header: bool = True
) -> Iterator[Row]:
    """Yield a CSV file's rows, of which it holds one at a time.

    Raises:
        BrokenTrace: it can't be read, is no text, has other columns or no rows.
    """
    table = csv.reader(file.lines())
    n_rows = 0
    try:
        for index, fields in enumerate(table):
            row = Row(file, table.line_num, columns, fields)
            if index == 0 and has_header:
                _check_header(row, columns, fields)
                continue
            if len(fields) != len(columns):
                row.fail(f"it has {len(fields)} fields instead of {len(columns)}")
            n_rows += 1
            yield row
    except csv.Error as exc:
        rule = f"it is no row of a table: {exc}"
        raise file.broken(rule, row=table.line_num) from exc
    if not n_rows:
        raise file.broken("it has no rows")


def _check_header(row: Row, columns: Sequence[str], fields: Sequence[str]) -> None:
    if list(fields) == list(columns):
        return
    if sorted(fields) == sorted(columns):
        first = next(i for i, name in enumerate(columns) if fields[i] != name)
        row.fail(f"column {first + 1} is {quoted(fields[first])} and should be {columns[first]}")
    missing = [name for name in columns if name not in fields]
    other = [name for name in fields if name not in columns]
    row.fail(f"its columns are not those of this trace: no {missing[:3]}, but {other[:3]}")


def _are_counts(fields: Sequence[str]) -> bool:
    # int() itself takes signs, spaces and underscores, and no more digits than some thousands.
    joined = "".join(fields)
    are_digits = joined.isascii() and joined.isdigit()
    return are_digits and all(0 < len(field) <= _MOST_DIGITS for field in fields)
