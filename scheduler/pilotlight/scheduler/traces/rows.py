"""Rows of a file, one after another, with the rules that all traces share."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Sequence
from typing import NoReturn

from pilotlight.scheduler.traces.files import TraceFile

_MOST_SHOWN = 60


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
        field = self._fields[column]
        # int() itself takes signs, spaces and underscores.
        if not (field.isascii() and field.isdigit()):
            self.fail(f"{self._columns[column]} is {_shown(field)}, not a count")
        return int(field)

    def amount(self, column: int) -> float:
        """Return a finite number, 0 or more."""
        field = self._fields[column]
        try:
            value = float(field)
        except ValueError:
            self.fail(f"{self._columns[column]} is {_shown(field)}, not a number")
        if not 0.0 <= value < math.inf:
            self.fail(f"{self._columns[column]} is {_shown(field)}, not a number from 0 on")
        return value

    def field(self, column: int) -> str:
        """Return a field as it is."""
        return self._fields[column]

    def fields(self, first: int) -> Sequence[str]:
        """Return the fields from one column on."""
        return self._fields[first:]

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
        row.fail(f"column {first + 1} is {_shown(fields[first])} and should be {columns[first]}")
    missing = [name for name in columns if name not in fields]
    other = [name for name in fields if name not in columns]
    row.fail(f"its columns are not those of this trace: no {missing[:3]}, but {other[:3]}")


def _shown(field: str) -> str:
    return repr(field if len(field) <= _MOST_SHOWN else f"{field[:_MOST_SHOWN]}…")
