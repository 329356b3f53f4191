"""The partitions of a packed checkpoint whose tensors are stored in slices."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pilotlight.native_loader.errors import CorruptCheckpoint
from pilotlight.native_loader.formats.confinement import Roots
from pilotlight.native_loader.formats.dtypes import ITEM_BITS
from pilotlight.native_loader.formats.manifest import MANIFEST_NAME, Manifest, ManifestTensor
from pilotlight.native_loader.formats.parts import CheckpointFile, TensorEntry
from pilotlight.native_loader.formats.shards import Shards, read_shards
from pilotlight.native_loader.formats.sliced import SlicedTensor, StoredSlice
from pilotlight.native_loader.placements.slices import Slice, UnevenBytes, row_ranges, size_bytes_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Partitions:
    """One weight file for each device, and what they hold together."""

    files: tuple[CheckpointFile, ...]
    tensors: Mapping[str, TensorEntry]
    """What is stored, by the names of `stored_name`."""
    sliced: Mapping[str, SlicedTensor]
    aliases: Mapping[str, str]
    layout_id: str


def stored_name(name: str, partition: int) -> str:
    """Return what a partition's slice of a tensor is called among those of all partitions."""
    return f"{name}@{partition}"


def partitions_layout_id(layout_ids: Sequence[str]) -> str:
    """Return the layout id of partitions with those layout ids."""
    digest = hashlib.sha256(b"pilotlight layout 1 partitions\n")
    for layout_id in layout_ids:
        digest.update(f"{layout_id}\n".encode())
    return digest.hexdigest()


def read_partitions(directory: Path, manifest: Manifest, roots: Roots) -> Partitions:
    """Read the headers of a directory's partitions and compare them with its manifest.

    Raises:
        CorruptCheckpoint: a header breaks a rule, a file is missing, or holds other slices.
        OutsideRoots: a file is a link that leads outside.
    """
    shards = [
        read_shards(
            directory,
            [partition.file],
            format="packed",
            roots=roots,
            mentioned_in=MANIFEST_NAME,
        )
        for partition in manifest.partitions
    ]
    held = [_placed(number, each) for number, each in enumerate(shards)]
    sliced: dict[str, SlicedTensor] = {}
    for name, tensor in manifest.tensors.items():
        found = _sliced(name, tensor, held)
        if found is None:
            raise CorruptCheckpoint(
                directory / MANIFEST_NAME, f"has slices of tensor {name!r} that are no such slices"
            )
        sliced[name] = found
    tensors = {
        stored_name(name, stored.entry.file): stored.entry
        for name, whole in sliced.items()
        for stored in whole.slices
    }
    if len(tensors) != sum(len(each) for each in held):
        raise CorruptCheckpoint(
            directory / MANIFEST_NAME, "was not written for the weight files beside it"
        )
    return Partitions(
        files=tuple(each.files[0] for each in shards),
        tensors=tensors,
        sliced=sliced,
        aliases=shards[0].aliases,
        layout_id=partitions_layout_id([each.layout_id for each in shards]),
    )


def _placed(number: int, shards: Shards) -> dict[str, TensorEntry]:
    return {
        name: TensorEntry(
            file=number,
            offset=entry.offset,
            size_bytes=entry.size_bytes,
            dtype=entry.dtype,
            shape=entry.shape,
        )
        for name, entry in shards.tensors.items()
    }


def _sliced(
    name: str, tensor: ManifestTensor, held: Sequence[Mapping[str, TensorEntry]]
) -> SlicedTensor | None:
    """Return a tensor with the slices that its manifest names; None if they are not there."""
    slices: list[StoredSlice] = []
    for part in tensor.parts:
        entry = held[part.partition].get(name) if part.partition < len(held) else None
        if entry is None or any(stored.entry.file == part.partition for stored in slices):
            return None
        cut = None
        if part.slice is not None:
            cut = Slice(dim=part.slice.dim, ranges=part.slice.ranges)
        if not _fits(tensor, entry, cut) or entry.offset != part.offset:
            return None
        slices.append(StoredSlice(entry=entry, slice=cut))
    if not _is_whole(tensor.shape, [stored.slice for stored in slices]):
        return None
    return SlicedTensor(dtype=tensor.dtype, shape=tensor.shape, slices=tuple(slices))


def _fits(tensor: ManifestTensor, entry: TensorEntry, cut: Slice | None) -> bool:
    """Whether an entry is what a slice of the tensor would be."""
    if entry.dtype != tensor.dtype or tensor.dtype not in ITEM_BITS:
        return False
    if cut is None:
        return entry.shape == tensor.shape
    if cut.dim >= len(tensor.shape) or cut.shape_of(tensor.shape) != entry.shape:
        return False
    try:
        size_bytes_of(tensor.dtype, tensor.shape)
        row_ranges(tensor.dtype, tensor.shape, cut)
    except UnevenBytes:
        return False
    return True


def _is_whole(shape: Sequence[int], slices: Sequence[Slice | None]) -> bool:
    """Whether slices are copies of the whole, or make it up with neither hole nor overlap."""
    cuts = [cut for cut in slices if cut is not None]
    if not cuts:
        return bool(slices)
    if len(cuts) != len(slices) or len({cut.dim for cut in cuts}) != 1:
        return False
    # Within a slice ranges ascend, which those who cut and join bytes rely on.
    if any(list(cut.ranges) != sorted(cut.ranges) for cut in cuts):
        return False
    reached = 0
    for begin, end in sorted(each for cut in cuts for each in cut.ranges):
        if begin != reached or end < begin:
            return False
        reached = end
    return reached == shape[cuts[0].dim]
