"""Placements: which bytes of a checkpoint go where in the memory of which device."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import msgspec

from pilotlight.native_loader.errors import SliceRefused
from pilotlight.native_loader.formats.parts import Chunk, TensorEntry
from pilotlight.native_loader.formats.sliced import (
    SlicedTensor,
    StoredSlice,
    common_slices,
    slice_size_bytes,
    whole_tensors,
)
from pilotlight.native_loader.placements.chunk_copies import (
    ChunkCopy,
    ChunkCutter,
    FileRows,
    merge_ranges,
)
from pilotlight.native_loader.placements.layers import split_layers
from pilotlight.native_loader.placements.slice_rules import SliceRules
from pilotlight.native_loader.placements.slices import Slice, rows_between, size_bytes_of

__all__ = [
    "ALIGNMENT_BYTES",
    "ChunkCopy",
    "Partition",
    "PlacedTensor",
    "Placement",
    "layer_ranges",
    "one_device",
    "tensor_parallel",
]

ALIGNMENT_BYTES = 256
"""What devices want their tensors aligned to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacedTensor:
    """A tensor, or a slice of one, in a partition's memory."""

    offset: int
    """Aligned to 256; for a size that is no multiple of 256, at least to the largest
    power of two that divides it."""
    size_bytes: int
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Partition:
    """What one device is to hold."""

    device: str | int
    """Its name, or its number among those of the placement."""
    size_bytes: int
    """Of the memory that it takes; a multiple of 256."""
    tensors: Mapping[str, PlacedTensor]
    """In the order of their bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """Where a checkpoint's bytes go. Each of a partition's bytes comes from one copy."""

    partitions: tuple[Partition, ...]
    copies: tuple[ChunkCopy, ...]
    """In the order of chunks; a chunk that is in none need not be read."""


class Placeable(Protocol):
    """What of a checkpoint a placement follows from."""

    @property
    def path(self) -> Path:
        """The directory."""
        ...

    @property
    def tensors(self) -> Mapping[str, TensorEntry]:
        """Where each stored tensor lies."""
        ...

    @property
    def sliced(self) -> Mapping[str, SlicedTensor]:
        """All tensors, where they are stored in slices; else empty."""
        ...

    @property
    def aliases(self) -> Mapping[str, str]:
        """Names that are not stored, to those that are."""
        ...

    @property
    def chunks(self) -> Sequence[Chunk]:
        """All of it, those of a file after each other."""
        ...

    def model_config(self) -> Mapping[str, Any]:
        """Return what config.json says of the model; nothing where it is absent."""
        ...


def one_device(checkpoint: Placeable, device: str | int = 0) -> Placement:
    """Place all of a checkpoint on one device."""
    return _place(checkpoint, [(device, lambda name: True)], _uncut)


def tensor_parallel(
    checkpoint: Placeable,
    degree: int,
    rules: SliceRules | None = None,
    *,
    devices: Sequence[str | int] | None = None,
) -> Placement:
    """Place a slice of every matrix on each of `degree` devices.

    Without `rules` they are those that `pack` goes by: the usual ones, for as many
    heads as config.json says.

    Raises:
        SliceRefused: a tensor can't be cut into so many equal slices.
        ValueError: `degree` is not positive, or not the number of devices.
    """
    chosen = rules or SliceRules.of_config(checkpoint.model_config())
    names = _devices(degree, devices)

    def cut(name: str, shape: Sequence[int], index: int) -> Slice | None:
        return chosen.slice_of(name, shape, index, degree)

    return _place(checkpoint, [(device, lambda name: True) for device in names], cut)


def layer_ranges(
    checkpoint: Placeable, n: int, *, devices: Sequence[str | int] | None = None
) -> Placement:
    """Place consecutive layers on each of `n` devices, about as many bytes on each.

    A tensor that is used under another name too is on every device that uses it.

    Raises:
        TooManyPartitions: it has fewer than `n` layers.
        ValueError: `n` is not positive, or not the number of devices.
    """
    names = _devices(n, devices)
    held = split_layers(
        checkpoint.path,
        {
            name: size_bytes_of(tensor.dtype, tensor.shape)
            for name, tensor in whole_tensors(checkpoint.tensors, checkpoint.sliced).items()
        },
        checkpoint.aliases,
        n,
    )
    return _place(
        checkpoint,
        [(device, of.__contains__) for device, of in zip(names, held, strict=True)],
        _uncut,
    )


_CutOf = Callable[[str, Sequence[int], int], Slice | None]


def _uncut(name: str, shape: Sequence[int], index: int) -> Slice | None:
    return None


def _devices(n: int, devices: Sequence[str | int] | None) -> Sequence[str | int]:
    if n < 1 or (devices is not None and len(devices) != n):
        raise ValueError(f"{n} partitions for {n if devices is None else len(devices)} devices")
    return range(n) if devices is None else devices


def _place(
    checkpoint: Placeable,
    wanted: Iterable[tuple[str | int, Callable[[str], bool]]],
    cut_of: _CutOf,
) -> Placement:
    tensors = whole_tensors(checkpoint.tensors, checkpoint.sliced)
    cutter = ChunkCutter(checkpoint.chunks)
    partitions: list[Partition] = []
    copies: list[ChunkCopy] = []
    for index, (device, holds) in enumerate(wanted):
        memory = _Memory(index)
        for name in memory.reading_order(tensors):
            if holds(name):
                memory.add(name, tensors[name], cut_of(name, tensors[name].shape, index))
        partitions.append(memory.partition(device))
        for rows in merge_ranges(memory.rows):
            copies.extend(cutter.cut(rows, index))
    copies.sort(key=lambda copy: (copy.chunk, copy.partition, copy.from_))
    return Placement(partitions=tuple(partitions), copies=tuple(copies))


class _Memory:
    """A partition's memory, as it is filled."""

    def __init__(self, partition: int) -> None:
        self.rows: list[FileRows] = []
        self._number = partition
        self._tensors: dict[str, PlacedTensor] = {}
        self._end = 0
        self._read_to: tuple[int, int] | None = None
        """File and offset where the last tensor ended, if it was copied as one range."""

    def reading_order(self, tensors: Mapping[str, SlicedTensor]) -> list[str]:
        """Return the names in the order of their bytes in the files."""

        def place(name: str) -> tuple[int, int, str]:
            tensor = tensors[name]
            stored = tensor.slice_in(self._number) or tensor.slices[0]
            return stored.entry.file, stored.entry.offset, name

        return sorted(tensors, key=place)

    def add(self, name: str, tensor: SlicedTensor, cut: Slice | None) -> None:
        """Give a tensor, or a slice of it, its place.

        What follows the last one in its file follows it here too, if that aligns it:
        then both are one range to copy.
        """
        shape = tensor.shape if cut is None else cut.shape_of(tensor.shape)
        size_bytes = slice_size_bytes(name, tensor.dtype, tensor.shape, cut)
        rows = self._rows_of(name, tensor, cut)
        offset = self._offset_for(rows, size_bytes)
        self._tensors[name] = PlacedTensor(
            offset=offset, size_bytes=size_bytes, dtype=tensor.dtype, shape=shape
        )
        self.rows.extend(msgspec.structs.replace(each, to=offset + each.to) for each in rows)

    def partition(self, device: str | int) -> Partition:
        """Return the partition, once all its tensors were added."""
        return Partition(device=device, size_bytes=_aligned(self._end), tensors=self._tensors)

    def _rows_of(self, name: str, tensor: SlicedTensor, cut: Slice | None) -> list[FileRows]:
        """Return what is read for a tensor; it goes to places from the tensor's start."""
        own = tensor.slice_in(self._number)
        pieces = [own] if own and own.slice == cut else tensor.pieces_for(self._number)
        return [row for piece in pieces for row in _rows_of_piece(name, tensor, piece, cut)]

    def _offset_for(self, rows: Sequence[FileRows], size_bytes: int) -> int:
        if not size_bytes:
            return 0
        first = rows[0]
        is_range = len(rows) == 1 and first.n_rows == 1
        follows = is_range and self._read_to == (first.file, first.begin)
        natural = min(ALIGNMENT_BYTES, size_bytes & -size_bytes)
        stays = follows and self._end % natural == 0
        offset = self._end if stays else _aligned(self._end)
        self._end = offset + size_bytes
        self._read_to = (first.file, first.begin + size_bytes) if is_range else None
        return offset


def _rows_of_piece(
    name: str, tensor: SlicedTensor, piece: StoredSlice, cut: Slice | None
) -> Iterator[FileRows]:
    file, begin = piece.entry.file, piece.entry.offset
    if piece.slice == cut:
        if piece.entry.size_bytes:
            yield FileRows(file=file, begin=begin, length=piece.entry.size_bytes, to=0)
        return
    slices = common_slices(tensor.shape, piece.slice, cut)
    if slices is None:
        raise SliceRefused(name, "it is stored in slices of another dimension")
    for rows in rows_between(tensor.dtype, tensor.shape, *slices):
        yield FileRows(
            file=file,
            begin=begin + rows.begin,
            length=rows.length,
            to=rows.to,
            n_rows=rows.n_rows,
            stride=rows.stride,
            to_stride=rows.to_stride,
        )


def _aligned(offset: int) -> int:
    return -(-offset // ALIGNMENT_BYTES) * ALIGNMENT_BYTES
