"""The manifest of a packed checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import msgspec

from pilotlight.native_loader.errors import CorruptCheckpoint, UnsupportedVersion
from pilotlight.native_loader.formats.confinement import Roots
from pilotlight.native_loader.formats.whole_files import read_whole
from pilotlight.native_loader.packing.pack_plans import PlanKind

MANIFEST_NAME = "manifest.json"
FORMAT = "pilotlight-packed"
VERSION = 2
"""Version 1 had one partition and no slices; it is still read."""
_MAX_BYTES = 200_000_000

_Count = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
_Checksum = Annotated[int, msgspec.Meta(ge=0, le=2**32 - 1)]
_Sha256 = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]


class Partition(msgspec.Struct, frozen=True, kw_only=True):
    """The weights for one device: one safetensors file."""

    file: str
    device: _Count
    size_bytes: _Count
    data_offset: _Count
    crc32c: tuple[_Checksum, ...]
    """Of each chunk of the file, its header included."""


class ManifestSlice(msgspec.Struct, frozen=True, kw_only=True):
    """Which part of a tensor a partition stores."""

    dim: _Count
    ranges: tuple[tuple[_Count, _Count], ...]
    """Begin and end in that dimension, in the order in which they are stored."""


class ManifestPart(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Where a tensor, or a slice of it, lies."""

    partition: _Count
    offset: _Count
    """From the start of the file."""
    size_bytes: _Count
    slice: ManifestSlice | None = None
    """None = all of the tensor."""


class ManifestTensor(msgspec.Struct, frozen=True, kw_only=True):
    """What a tensor is as a whole, and where its parts lie."""

    dtype: str
    shape: tuple[_Count, ...]
    sha256: _Sha256
    """Of the whole tensor's bytes."""
    parts: tuple[ManifestPart, ...]


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """All that a packed checkpoint says of itself; written last."""

    format: str
    version: int
    content_id: _Sha256
    layout_id: _Sha256
    chunk_bytes: _Count
    plan: PlanKind
    aliases: dict[str, str]
    partitions: tuple[Partition, ...]
    tensors: dict[str, ManifestTensor]

    def encode(self) -> bytes:
        """Return the text of the manifest; equal manifests have equal texts."""
        return msgspec.json.format(msgspec.json.encode(self, order="deterministic"), indent=1)


class _FirstTensor(msgspec.Struct, frozen=True, kw_only=True):
    """A tensor, as version 1 has it."""

    partition: _Count
    offset: _Count
    size_bytes: _Count
    dtype: str
    shape: tuple[_Count, ...]
    sha256: _Sha256


class _FirstManifest(msgspec.Struct, frozen=True, kw_only=True):
    """Version 1."""

    format: str
    version: int
    content_id: _Sha256
    layout_id: _Sha256
    chunk_bytes: _Count
    aliases: dict[str, str]
    partitions: tuple[Partition, ...]
    tensors: dict[str, _FirstTensor]

    def as_current(self) -> Manifest:
        """Return what it says in the words of the current version."""
        return Manifest(
            format=self.format,
            version=VERSION,
            content_id=self.content_id,
            layout_id=self.layout_id,
            chunk_bytes=self.chunk_bytes,
            plan=PlanKind.ONE,
            aliases=self.aliases,
            partitions=self.partitions,
            tensors={name: _as_current(tensor) for name, tensor in self.tensors.items()},
        )


def _as_current(tensor: _FirstTensor) -> ManifestTensor:
    part = ManifestPart(
        partition=tensor.partition, offset=tensor.offset, size_bytes=tensor.size_bytes
    )
    return ManifestTensor(
        dtype=tensor.dtype, shape=tensor.shape, sha256=tensor.sha256, parts=(part,)
    )


def read_manifest(directory: Path, roots: Roots) -> Manifest | None:
    """Return the manifest of a packed directory; None where there is none of ours.

    Raises:
        CorruptCheckpoint: it is damaged.
        OutsideRoots: it is a link that leads outside.
        UnsupportedVersion: a newer release wrote it.
    """
    file = directory / MANIFEST_NAME
    try:
        raw = read_whole(file, most_bytes=_MAX_BYTES, roots=roots)
    except (FileNotFoundError, IsADirectoryError):
        return None
    return _decode(raw, file)


class _Kind(msgspec.Struct):
    """What tells our manifests from those of other tools, in every version."""

    format: Any = None
    version: Any = None


def _decode(raw: bytes, file: Path) -> Manifest | None:
    try:
        kind = _kind(raw)
        if kind.format != FORMAT:
            return None
        if isinstance(kind.version, int) and kind.version > VERSION:
            raise UnsupportedVersion(file, kind.version, VERSION)
        if kind.version == 1:
            return msgspec.json.decode(raw, type=_FirstManifest).as_current()
        return msgspec.json.decode(raw, type=Manifest)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise CorruptCheckpoint(file, f"is no manifest: {exc}") from exc


def _kind(raw: bytes) -> _Kind:
    try:
        return msgspec.json.decode(raw, type=_Kind)
    except msgspec.ValidationError:
        return _Kind()
