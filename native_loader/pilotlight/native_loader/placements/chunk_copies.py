"""What of a checkpoint's chunks is copied where."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence

import msgspec

from pilotlight.native_loader.formats.parts import Chunk

# A large checkpoint takes tens of thousands of both: structs are made several times faster than
# dataclasses.


class ChunkCopy(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Rows of bytes of one chunk that go to one partition; one row for a plain range."""

    chunk: int
    """Which of the checkpoint's chunks."""
    partition: int
    from_: int
    """Of the first row, in the chunk."""
    to: int
    """Of the first row, in the partition's memory."""
    length: int
    """Of each row, in bytes."""
    n_rows: int = 1
    from_stride: int = 0
    """Bytes from one row's start to the next's; 0 where there is one row."""
    to_stride: int = 0

    @property
    def size_bytes(self) -> int:
        """Return how many bytes are copied."""
        return self.length * self.n_rows


class FileRows(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Rows of bytes of a file, however many chunks they lie in, and where they go."""

    file: int
    begin: int
    """Of the first row, in the file."""
    length: int
    to: int
    n_rows: int = 1
    stride: int = 0
    to_stride: int = 0


def merge_ranges(rows: Iterable[FileRows]) -> list[FileRows]:
    """Join plain ranges that follow each other both in the file and in the partition."""
    merged: list[FileRows] = []
    for each in rows:
        last = merged[-1] if merged else None
        if last is not None and _follows(last, each):
            merged[-1] = msgspec.structs.replace(last, length=last.length + each.length)
        else:
            merged.append(each)
    return merged


def _follows(last: FileRows, each: FileRows) -> bool:
    return (
        last.n_rows == each.n_rows == 1
        and last.file == each.file
        and last.begin + last.length == each.begin
        and last.to + last.length == each.to
    )


class ChunkCutter:
    """Cuts rows of files at the borders of chunks."""

    def __init__(self, chunks: Sequence[Chunk]) -> None:
        """`chunks` are all of a checkpoint's; those of a file follow each other."""
        self._chunks = chunks
        self._starts = [(chunk.file, chunk.offset) for chunk in chunks]

    def cut(self, rows: FileRows, partition: int) -> Iterator[ChunkCopy]:
        """Yield the copies: in each chunk the rest of a row, whole rows, the start of a row."""
        end = rows.begin + (rows.n_rows - 1) * rows.stride + rows.length
        number = bisect_right(self._starts, (rows.file, rows.begin)) - 1
        while number < len(self._chunks) and self._starts[number] < (rows.file, end):
            chunk = self._chunks[number]
            for part in _within(rows, chunk.offset, chunk.offset + chunk.length):
                yield ChunkCopy(
                    chunk=number,
                    partition=partition,
                    from_=part.begin - chunk.offset,
                    to=part.to,
                    length=part.length,
                    n_rows=part.n_rows,
                    from_stride=part.stride,
                    to_stride=part.to_stride,
                )
            number += 1


def _within(rows: FileRows, begin: int, end: int) -> Iterator[FileRows]:
    """Yield what of the rows lies between two places of the file."""
    if rows.n_rows == 1:
        yield from _part_of_row(rows, 0, begin, end)
        return
    # The first row that ends after the beginning, and the first that ends after the end.
    first = max(0, (begin - rows.begin - rows.length) // rows.stride + 1)
    beyond = max(0, (end - rows.begin - rows.length) // rows.stride + 1)
    if first < rows.n_rows and rows.begin + first * rows.stride < begin:
        yield from _part_of_row(rows, first, begin, end)
        first += 1
    if first < (stop := min(beyond, rows.n_rows)):
        yield _whole_rows(rows, first, stop)
    if first <= beyond < rows.n_rows:
        yield from _part_of_row(rows, beyond, begin, end)


def _part_of_row(rows: FileRows, number: int, begin: int, end: int) -> Iterator[FileRows]:
    row_begin = rows.begin + number * rows.stride
    part_begin, part_end = max(row_begin, begin), min(row_begin + rows.length, end)
    if part_begin < part_end:
        yield FileRows(
            file=rows.file,
            begin=part_begin,
            length=part_end - part_begin,
            to=rows.to + number * rows.to_stride + part_begin - row_begin,
        )


def _whole_rows(rows: FileRows, first: int, stop: int) -> FileRows:
    is_one = stop - first == 1
    return msgspec.structs.replace(
        rows,
        begin=rows.begin + first * rows.stride,
        to=rows.to + first * rows.to_stride,
        n_rows=stop - first,
        stride=0 if is_one else rows.stride,
        to_stride=0 if is_one else rows.to_stride,
    )
