"""Dealing the bytes of a tensor to its slices while they stream by."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from pilotlight.native_loader.placements.slices import Slice, row_ranges

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Sink = Callable[[memoryview], None]
"""Takes the next bytes of a slice, which it must not keep."""


class SliceSplitter:
    """Gives a sink the bytes of one slice of a tensor."""

    def __init__(self, dtype: str, shape: Sequence[int], slice_: Slice | None, sink: Sink) -> None:
        """None as a slice is all of the tensor.

        Raises:
            UnevenBytes: a range begins or ends within a byte.
        """
        self._sink = sink
        self._offset = 0
        self._row_bytes, self._ranges = 0, list[tuple[int, int]]()
        if slice_ is not None:
            self._row_bytes, self._ranges = row_ranges(dtype, shape, slice_)

    def feed(self, piece: memoryview) -> None:
        """Take the next bytes of the tensor."""
        if not self._row_bytes:
            self._sink(piece)
            return
        # The rest of a row, whole rows, the start of a row.
        rest = min(-self._offset % self._row_bytes, len(piece))
        n_rows = (len(piece) - rest) // self._row_bytes
        whole = rest + n_rows * self._row_bytes
        self._feed_part(piece[:rest])
        self._feed_rows(piece[rest:whole], n_rows)
        self._feed_part(piece[whole:])

    def _feed_part(self, part: memoryview) -> None:
        """Take bytes of a single row."""
        begin = self._offset % self._row_bytes
        for range_begin, range_end in self._ranges:
            wanted = part[max(range_begin - begin, 0) : max(range_end - begin, 0)]
            if wanted:
                self._sink(wanted)
        self._offset += len(part)

    def _feed_rows(self, rows: memoryview, n_rows: int) -> None:
        if not n_rows:
            return
        import numpy as np

        table: NDArray[np.uint8] = np.frombuffer(rows, np.uint8).reshape(n_rows, self._row_bytes)
        columns = [table[:, begin:end] for begin, end in self._ranges]
        wanted = np.ascontiguousarray(np.concatenate(columns, axis=1))
        if wanted.size:
            self._sink(wanted.reshape(-1).data)
        self._offset += len(rows)
