"""Slices of tensors: ranges of one dimension, and where their bytes lie."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from pilotlight.native_loader.formats.dtypes import ITEM_BITS


@dataclass(frozen=True, slots=True, kw_only=True)
class Slice:
    """Ranges of one dimension of a tensor, stored one after another."""

    dim: int
    ranges: tuple[tuple[int, int], ...]
    """Begin and end of each, in the order in which the slice holds them."""

    @property
    def size(self) -> int:
        """Return the slice's own size in that dimension."""
        return sum(end - begin for begin, end in self.ranges)

    def shape_of(self, whole: Sequence[int]) -> tuple[int, ...]:
        """Return the slice's shape, of a tensor of that shape."""
        return (*whole[: self.dim], self.size, *whole[self.dim + 1 :])


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """Equally long rows of bytes, and where they go; offsets are those of two tensors."""

    begin: int
    """Of the first row, in the tensor that is read."""
    length: int
    n_rows: int
    stride: int
    to: int
    to_stride: int


class UnevenBytes(ValueError):
    """A slice would begin or end within a byte."""


def size_bytes_of(dtype: str, shape: Sequence[int]) -> int:
    """Return the size of such a tensor.

    Raises:
        UnevenBytes: it does not end at a whole byte.
    """
    return _whole_bytes(math.prod(shape) * ITEM_BITS[dtype])


def whole_slice(shape: Sequence[int]) -> Slice:
    """Return the slice that is all of a tensor."""
    return Slice(dim=0, ranges=((0, shape[0] if shape else 1),))


def even_slice(shape: Sequence[int], dim: int, parts: Sequence[int], index: int, n: int) -> Slice:
    """Return slice `index` of `n` of a dimension that is made of parts of those relative sizes.

    Every part is cut in `n`; the caller has checked that all of it comes out even.
    """
    unit = shape[dim] // sum(parts)
    starts = accumulate((part * unit for part in parts[:-1]), initial=0)
    ranges: list[tuple[int, int]] = []
    for start, part in zip(starts, parts, strict=True):
        size = part * unit // n
        ranges.append((start + index * size, start + (index + 1) * size))
    return Slice(dim=dim, ranges=tuple(ranges))


def rows_between(dtype: str, shape: Sequence[int], stored: Slice, wanted: Slice) -> list[Rows]:
    """Return what is copied from a stored slice of a tensor into a wanted one.

    Both are of the same dimension of a tensor with that shape.

    Raises:
        UnevenBytes: a range begins or ends within a byte.
    """
    dim = wanted.dim
    inner_bits = math.prod(shape[dim + 1 :]) * ITEM_BITS[dtype]
    n_outer = math.prod(shape[:dim])
    if n_outer == 0 or inner_bits == 0:
        return []
    found: list[Rows] = []
    from_stride, to_stride = stored.size * inner_bits, wanted.size * inner_bits
    for to_bits, wanted_range in _placed(wanted, inner_bits):
        for from_bits, stored_range in _placed(stored, inner_bits):
            begin = max(wanted_range[0], stored_range[0])
            end = min(wanted_range[1], stored_range[1])
            if begin < end:
                rows = _Bits(
                    begin=from_bits + (begin - stored_range[0]) * inner_bits,
                    length=(end - begin) * inner_bits,
                    to=to_bits + (begin - wanted_range[0]) * inner_bits,
                )
                found.append(rows.in_bytes(n_outer, from_stride, to_stride))
    return found


def row_ranges(
    dtype: str, shape: Sequence[int], slice_: Slice
) -> tuple[int, list[tuple[int, int]]]:
    """Return the length of a tensor's rows in bytes, and what of each row is the slice's.

    A row is all that has the same indexes in the dimensions before the slice's.

    Raises:
        UnevenBytes: a range begins or ends within a byte.
    """
    inner_bits = math.prod(shape[slice_.dim + 1 :]) * ITEM_BITS[dtype]
    ranges = [
        (_whole_bytes(begin * inner_bits), _whole_bytes(end * inner_bits))
        for begin, end in slice_.ranges
    ]
    return _whole_bytes(shape[slice_.dim] * inner_bits), ranges


@dataclass(frozen=True, slots=True, kw_only=True)
class _Bits:
    begin: int
    length: int
    to: int

    def in_bytes(self, n_rows: int, stride: int, to_stride: int) -> Rows:
        is_contiguous = n_rows == 1 or self.length == stride == to_stride
        length = self.length * n_rows if is_contiguous else self.length
        return Rows(
            begin=_whole_bytes(self.begin),
            length=_whole_bytes(length),
            n_rows=1 if is_contiguous else n_rows,
            stride=0 if is_contiguous else _whole_bytes(stride),
            to=_whole_bytes(self.to),
            to_stride=0 if is_contiguous else _whole_bytes(to_stride),
        )


def _placed(slice_: Slice, inner_bits: int) -> list[tuple[int, tuple[int, int]]]:
    """Return each range with the place of its first bit in a row of the slice."""
    sizes = ((end - begin) * inner_bits for begin, end in slice_.ranges[:-1])
    return list(zip(accumulate(sizes, initial=0), slice_.ranges, strict=True))


def _whole_bytes(bits: int) -> int:
    if bits % 8:
        raise UnevenBytes
    return bits // 8
