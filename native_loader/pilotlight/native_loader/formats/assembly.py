"""Reading tensors as wholes, however they are stored."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from pilotlight.native_loader.formats.scanning import PIECE_BYTES, OpenFile
from pilotlight.native_loader.formats.sliced import SlicedTensor, StoredSlice
from pilotlight.native_loader.placements.slices import row_ranges, size_bytes_of

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def whole_pieces(files: Sequence[OpenFile], tensor: SlicedTensor) -> Iterator[memoryview]:
    """Yield a tensor's bytes, in memory that does not grow with it.

    Each piece is overwritten when the next is asked for.

    Raises:
        ReadFailed, FileChanged: as they say.
    """
    pieces = tensor.pieces_for(0)
    if pieces[0].slice is None:
        entry = pieces[0].entry
        yield from files[entry.file].pieces(entry.offset, entry.size_bytes)
        return
    columns = _Columns(files, tensor, pieces)
    if columns.row_bytes > PIECE_BYTES or columns.n_rows == 1:
        yield from columns.row_by_row()
    elif columns.row_bytes:
        yield from columns.by_rows()


class _Columns:
    """The slices of a tensor, side by side."""

    def __init__(
        self, files: Sequence[OpenFile], tensor: SlicedTensor, pieces: Sequence[StoredSlice]
    ) -> None:
        self._files = files
        self._entries = [piece.entry for piece in pieces]
        cuts = [piece.slice for piece in pieces if piece.slice is not None]
        self._ranges = [row_ranges(tensor.dtype, tensor.shape, cut)[1] for cut in cuts]
        self.row_bytes, _ = row_ranges(tensor.dtype, tensor.shape, cuts[0])
        size_bytes = size_bytes_of(tensor.dtype, tensor.shape)
        self.n_rows = size_bytes // self.row_bytes if self.row_bytes else 0
        self._lengths = [sum(end - begin for begin, end in ranges) for ranges in self._ranges]

    def row_by_row(self) -> Iterator[memoryview]:
        """Yield the ranges of each row in turn; few and long."""
        order = sorted(
            (begin, end - begin, number, start)
            for number, ranges in enumerate(self._ranges)
            for (begin, end), start in zip(ranges, _starts(ranges), strict=True)
        )
        for row in range(self.n_rows):
            for _, length, number, start in order:
                entry = self._entries[number]
                offset = entry.offset + row * self._lengths[number] + start
                yield from self._files[entry.file].pieces(offset, length)

    def by_rows(self) -> Iterator[memoryview]:
        """Yield as many rows at once as a piece holds."""
        import numpy as np

        per_piece = PIECE_BYTES // self.row_bytes
        for first in range(0, self.n_rows, per_piece):
            n_rows = min(per_piece, self.n_rows - first)
            table: NDArray[np.uint8] = np.empty((n_rows, self.row_bytes), np.uint8)
            for number, ranges in enumerate(self._ranges):
                columns = self._read(number, first, n_rows)
                for (begin, end), start in zip(ranges, _starts(ranges), strict=True):
                    table[:, begin:end] = columns[:, start : start + end - begin]
            yield table.reshape(-1).data

    def _read(self, number: int, first: int, n_rows: int) -> NDArray[np.uint8]:
        import numpy as np

        entry, length = self._entries[number], self._lengths[number]
        read: NDArray[np.uint8] = np.empty(n_rows * length, np.uint8)
        done = 0
        for piece in self._files[entry.file].pieces(entry.offset + first * length, read.size):
            read[done : done + len(piece)] = np.frombuffer(piece, np.uint8)
            done += len(piece)
        return read.reshape(n_rows, length)


def _starts(ranges: Sequence[tuple[int, int]]) -> list[int]:
    """Return where each range begins in a row of the slice that has them."""
    starts: list[int] = []
    reached = 0
    for begin, end in ranges:
        starts.append(reached)
        reached += end - begin
    return starts
