"""What a manifest says of its tensors, compared with their headers and bytes."""

from __future__ import annotations

from collections.abc import Mapping

from pilotlight.native_loader.errors import CorruptCheckpoint
from pilotlight.native_loader.formats.confinement import Roots
from pilotlight.native_loader.formats.manifest import (
    MANIFEST_NAME,
    Manifest,
    ManifestTensor,
    read_manifest,
)
from pilotlight.native_loader.formats.sliced import SlicedTensor, whole_tensors
from pilotlight.native_loader.formats.stored import Stored
from pilotlight.native_loader.placements.slices import Slice


def check_claims(stored: Stored, sha256: Mapping[str, str]) -> None:
    """Compare a packed checkpoint's manifest with its headers and its tensors' digests.

    Raises:
        CorruptCheckpoint: it says something else, or is not there any more.
    """
    where = stored.path / MANIFEST_NAME
    manifest = read_manifest(stored.path, Roots([]))
    if manifest is None or manifest.content_id != stored.content_id:
        raise CorruptCheckpoint(where, "is not the one that its checkpoint was opened with")
    _check_files(stored, manifest)
    if dict(manifest.aliases) != dict(stored.aliases):
        raise CorruptCheckpoint(where, "has other aliases than the weight files")
    wholes = whole_tensors(stored.tensors, stored.sliced)
    if manifest.tensors.keys() != wholes.keys():
        raise CorruptCheckpoint(where, "has other tensors than the weight files")
    for name, tensor in manifest.tensors.items():
        wrong = _difference(tensor, wholes[name], sha256[name])
        if wrong:
            raise CorruptCheckpoint(where, f"has another {wrong} of tensor {name!r} than its file")


def _check_files(stored: Stored, manifest: Manifest) -> None:
    said = [
        (partition.file, partition.size_bytes, partition.data_offset)
        for partition in manifest.partitions
    ]
    found = [(file.path.name, file.size_bytes, file.data_offset) for file in stored.files]
    if said != found:
        raise CorruptCheckpoint(
            stored.path / MANIFEST_NAME, "has other sizes than the weight files beside it"
        )


def _difference(tensor: ManifestTensor, whole: SlicedTensor, sha256: str) -> str:
    """Return what the manifest says wrongly, "" where nothing."""
    said = [
        (
            part.partition,
            part.offset,
            part.size_bytes,
            None if part.slice is None else Slice(dim=part.slice.dim, ranges=part.slice.ranges),
        )
        for part in tensor.parts
    ]
    found = [
        (each.entry.file, each.entry.offset, each.entry.size_bytes, each.slice)
        for each in whole.slices
    ]
    differs = {
        "dtype": tensor.dtype != whole.dtype,
        "shape": tensor.shape != whole.shape,
        "place": said != found,
        "sha256": tensor.sha256 != sha256,
    }
    return next((name for name, is_wrong in differs.items() if is_wrong), "")
