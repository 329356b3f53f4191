"""Tensors of which each partition stores a slice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pilotlight.native_loader.errors import SliceRefused
from pilotlight.native_loader.formats.parts import TensorEntry
from pilotlight.native_loader.placements.slices import (
    Slice,
    UnevenBytes,
    row_ranges,
    size_bytes_of,
    whole_slice,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredSlice:
    """A slice of a tensor, stored as a tensor of its own."""

    entry: TensorEntry
    """Where it lies; its file is its partition."""
    slice: Slice | None
    """None = it is all of the tensor."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SlicedTensor:
    """A tensor as a whole, and where its slices lie."""

    dtype: str
    shape: tuple[int, ...]
    slices: tuple[StoredSlice, ...]
    """Of one dimension, together all of it; or as many copies of all of it."""

    def pieces_for(self, partition: int) -> Sequence[StoredSlice]:
        """Return what is read to have all of the tensor once, a partition's own copy first."""
        copies = [stored for stored in self.slices if stored.slice is None]
        own = [stored for stored in copies if stored.entry.file == partition]
        return (own or copies)[:1] or self.slices

    def slice_in(self, partition: int) -> StoredSlice | None:
        """Return what a partition stores of it."""
        return next((each for each in self.slices if each.entry.file == partition), None)


def whole_tensors(
    tensors: Mapping[str, TensorEntry], sliced: Mapping[str, SlicedTensor]
) -> dict[str, SlicedTensor]:
    """Return a checkpoint's tensors as wholes, whether they are stored so or in slices."""
    if sliced:
        return dict(sliced)
    return {
        name: SlicedTensor(
            dtype=entry.dtype,
            shape=entry.shape,
            slices=(StoredSlice(entry=entry, slice=None),),
        )
        for name, entry in tensors.items()
    }


def slice_size_bytes(name: str, dtype: str, shape: Sequence[int], cut: Slice | None) -> int:
    """Return the size of a slice of a tensor; None as a slice is all of it.

    Raises:
        SliceRefused: it would begin or end within a byte.
    """
    try:
        if cut is None:
            return size_bytes_of(dtype, shape)
        row_ranges(dtype, shape, cut)
        return size_bytes_of(dtype, cut.shape_of(shape))
    except UnevenBytes as exc:
        rule = f"a slice of {list(shape)} in {dtype} would not be of whole bytes"
        raise SliceRefused(name, rule) from exc


def common_slices(
    shape: Sequence[int], stored: Slice | None, wanted: Slice | None
) -> tuple[Slice, Slice] | None:
    """Return both as slices of one dimension; None where they are of two."""
    if stored is None and wanted is None:
        return whole_slice(shape), whole_slice(shape)
    dim = (wanted or stored or whole_slice(shape)).dim
    if stored is not None and stored.dim != dim:
        return None
    whole = Slice(dim=dim, ranges=((0, shape[dim]),))
    return stored or whole, wanted or whole
