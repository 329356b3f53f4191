"""Arrays that snapshots share until they are written to.

A snapshot is immutable, and most of one is the same as in the one before. So a
table is written in place where nobody looks at it any more, and copied first
where somebody does. Who looks is what Python counts: a view of an array, however
derived, counts as a reference to that array.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import numpy.typing as npt

Columns = dict[str, npt.NDArray[Any]]


def _count_own() -> int:
    owned = {"it": np.zeros(0)}
    return sys.getrefcount(owned["it"])


_OWN_REFERENCES = _count_own()
"""What is counted where nobody looks: the owner's one, and what this Python adds by counting."""


class Table:
    """Named arrays of a fixed shape."""

    def __init__(self, columns: Columns) -> None:
        self._columns = columns
        self._open: dict[str, None] = dict.fromkeys(columns)

    def writable(self, name: str) -> npt.NDArray[Any]:
        """Return a column to write to, until `publish`. Keep no reference to it beyond that."""
        if name not in self._open:
            if sys.getrefcount(self._columns[name]) > _OWN_REFERENCES:
                self._columns[name] = self._columns[name].copy()
            self._columns[name].setflags(write=True)
            self._open[name] = None
        return self._columns[name]

    def read(self, name: str) -> npt.NDArray[Any]:
        """Return a column to read from, at once."""
        return self._columns[name]

    def publish(self) -> Columns:
        """Return the columns, no longer writable."""
        for name in self._open:
            self._columns[name].setflags(write=False)
        self._open.clear()
        return self._columns


class RowTable:
    """Named columns of one number each, whose rows come and go in order.

    Columns of equal type are rows of one array that has room for more than there is.
    """

    def __init__(self, types: dict[str, type[np.generic]]) -> None:
        self._n_rows = 0
        self._names: dict[type[np.generic], list[str]] = {}
        for name, type_ in types.items():
            self._names.setdefault(type_, []).append(name)
        self._blocks: dict[type[np.generic], npt.NDArray[Any]] = {
            type_: np.zeros((len(names), 0), type_) for type_, names in self._names.items()
        }
        self._published: Columns | None = None

    def append(self, *values: tuple[Any, ...]) -> None:
        """Add a last row; `values` as for `write`."""
        self._open()
        capacity = next(iter(self._blocks.values())).shape[1]
        if self._n_rows == capacity:
            for type_, block in self._blocks.items():
                larger = np.zeros((len(block), max(2 * capacity, 16)), type_)
                larger[:, :capacity] = block
                self._blocks[type_] = larger
        self._n_rows += 1
        self.write(self._n_rows - 1, *values)

    def write(self, row: int, *values: tuple[Any, ...]) -> None:
        """Set a row: for each type, in the order of their first columns, that type's values."""
        self._open()
        for block, column in zip(self._blocks.values(), values, strict=True):
            block[:, row] = column

    def remove(self, row: int) -> None:
        """Drop a row; those after it move up."""
        self._open()
        for block in self._blocks.values():
            for column in block:
                column[row : self._n_rows - 1] = column[row + 1 : self._n_rows]
        self._n_rows -= 1

    def publish(self) -> Columns:
        """Return the columns, no longer writable."""
        if self._published is None:
            self._published = {}
            for type_, names in self._names.items():
                block = self._blocks[type_]
                block.setflags(write=False)
                for name, column in zip(names, block, strict=True):
                    self._published[name] = column[: self._n_rows]
        return self._published

    def _open(self) -> None:
        """See that nobody looks at what is going to be written."""
        if self._published is None:
            return
        self._published = None
        for type_ in self._blocks:
            if sys.getrefcount(self._blocks[type_]) > _OWN_REFERENCES:
                self._blocks[type_] = self._blocks[type_].copy()
            self._blocks[type_].setflags(write=True)
