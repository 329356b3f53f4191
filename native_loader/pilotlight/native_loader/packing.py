"""Packing: rewriting a checkpoint so that it loads fast and says what it is."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from pilotlight.native_loader.checkpoint import Checkpoint
from pilotlight.native_loader.checksummed_file import ChecksummedFile
from pilotlight.native_loader.confinement import Roots
from pilotlight.native_loader.content import content_id_of
from pilotlight.native_loader.errors import (
    ContentMismatch,
    DestinationExists,
    LoaderError,
    PackFailed,
    ReadFailed,
)
from pilotlight.native_loader.header import LENGTH_BYTES
from pilotlight.native_loader.manifest import (
    FORMAT,
    MANIFEST_NAME,
    VERSION,
    Manifest,
    ManifestTensor,
    Partition,
    read_manifest,
)
from pilotlight.native_loader.parts import CHUNK_BYTES, TensorEntry
from pilotlight.native_loader.scanning import OpenFile, ProgressCallback, opened
from pilotlight.native_loader.shards import layout_id_of
from pilotlight.native_loader.staging import StagingBusy, publish, staged
from pilotlight.native_loader.tensor_order import packed_order
from pilotlight.native_loader.weight_files import INDEX_NAME, SINGLE_NAME

DATA_ALIGNMENT_BYTES = 4096
"""Where a partition's data starts: direct reads, pages and devices agree on it."""


def pack(
    source: Checkpoint,
    destination: str | Path,
    *,
    replace: bool = False,
    progress: ProgressCallback | None = None,
) -> Checkpoint:
    """Write a packed copy of a checkpoint and open it.

    Memory use is constant; equal sources give equal bytes. The destination appears
    whole, with its last rename, or not at all. With `replace`, a packed checkpoint
    that is there is replaced; nothing else ever is.

    Raises:
        DestinationExists: the destination is taken.
        PackFailed: it can't be written (a full disk, say); nothing was left behind.
        ReadFailed, FileChanged, ContentMismatch: the source can't be read, or is damaged.
    """
    target = Path(os.path.abspath(destination))
    _check_destination(target, replace=replace)
    try:
        _check_room(source, target)
        with staged(target) as place:
            _write(source, place, progress)
            publish(place, target)
    except StagingBusy as exc:
        raise PackFailed(target, "another process is packing to the same place") from exc
    except OSError as exc:
        if isinstance(exc, LoaderError):
            raise
        raise PackFailed(target, (exc.strerror or str(exc)).lower()) from exc
    return Checkpoint.open(target)


def _check_destination(target: Path, *, replace: bool) -> None:
    if not os.path.lexists(target) or (target.is_dir() and not any(target.iterdir())):
        return
    if not replace:
        raise DestinationExists(target, "exists already")
    if target.is_symlink() or not target.is_dir() or read_manifest(target, Roots([])) is None:
        raise DestinationExists(target, "is no packed checkpoint, so it is not replaced")


def _check_room(source: Checkpoint, target: Path) -> None:
    room = os.statvfs(target.parent)
    free_bytes = room.f_bavail * room.f_frsize
    needed_bytes = sum(entry.size_bytes for entry in source.tensors.values())
    if needed_bytes > free_bytes:
        raise PackFailed(
            target, f"it needs {needed_bytes:,d} bytes and the disk has {free_bytes:,d} left"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    """One partition, before it is written."""

    file: str
    names: Sequence[str]
    header: bytes
    tensors: Mapping[str, TensorEntry]
    """As they will lie in the partition."""

    @property
    def size_bytes(self) -> int:
        return len(self.header) + sum(entry.size_bytes for entry in self.tensors.values())


def _plan(source: Checkpoint) -> list[_Plan]:
    """Return the partitions; one, for one device, holds everything."""
    names = packed_order(source.tensors)
    header = _header(source, names)
    offset = len(header)
    tensors: dict[str, TensorEntry] = {}
    for name in names:
        entry = source.tensors[name]
        tensors[name] = TensorEntry(
            file=0,
            offset=offset,
            size_bytes=entry.size_bytes,
            dtype=entry.dtype,
            shape=entry.shape,
        )
        offset += entry.size_bytes
    return [_Plan(file=SINGLE_NAME, names=names, header=header, tensors=tensors)]


def _header(source: Checkpoint, names: Sequence[str]) -> bytes:
    document: dict[str, object] = {
        "__metadata__": {"format": "pt"} | dict(sorted(source.aliases.items()))
    }
    begin = 0
    for name in names:
        entry = source.tensors[name]
        end = begin + entry.size_bytes
        document[name] = {
            "dtype": entry.dtype,
            "shape": entry.shape,
            "data_offsets": [begin, end],
        }
        begin = end
    text = json.dumps(document, separators=(",", ":")).encode()
    text += b" " * (-(LENGTH_BYTES + len(text)) % DATA_ALIGNMENT_BYTES)
    return len(text).to_bytes(LENGTH_BYTES, "little") + text


def _write(source: Checkpoint, place: Path, progress: ProgressCallback | None) -> None:
    plans = _plan(source)
    sums: dict[str, str] = {}
    partitions: list[Partition] = []
    for device, plan in enumerate(plans):
        crc32c_sums = _write_partition(source, plan, place / plan.file, sums, progress)
        partitions.append(
            Partition(
                file=plan.file,
                device=device,
                size_bytes=plan.size_bytes,
                data_offset=len(plan.header),
                crc32c=crc32c_sums,
            )
        )
    content_id = content_id_of(source.tensors, sums)
    if source.content_id and content_id != source.content_id:
        raise ContentMismatch(source.path, source.content_id, content_id)
    _write_file(place / INDEX_NAME, _index(plans))
    for name in source.execution_files:
        _copy_file(source.path / name, place / name)
    manifest = _manifest(source, plans, partitions, content_id=content_id, sums=sums)
    _write_file(place / MANIFEST_NAME, manifest.encode())


def _write_partition(
    source: Checkpoint,
    plan: _Plan,
    path: Path,
    sums: dict[str, str],
    progress: ProgressCallback | None,
) -> tuple[int, ...]:
    """Write one partition, note each tensor's SHA-256, return each chunk's CRC-32C."""
    with ExitStack() as stack:
        sources = [stack.enter_context(opened(file)) for file in source.files]
        writer = stack.enter_context(ChecksummedFile(path))
        writer.write(plan.header)
        for name in plan.names:
            entry = source.tensors[name]
            sums[name] = _copy_tensor(sources[entry.file], entry, writer)
            if progress is not None:
                progress(writer.size_bytes, plan.size_bytes)
        writer.sync()
        return tuple(writer.crc32c)


def _copy_tensor(source: OpenFile, entry: TensorEntry, writer: ChecksummedFile) -> str:
    digest = hashlib.sha256()
    for piece in source.pieces(entry.offset, entry.size_bytes):
        digest.update(piece)
        writer.write(piece)
    return digest.hexdigest()


def _index(plans: Sequence[_Plan]) -> bytes:
    total_bytes = sum(entry.size_bytes for plan in plans for entry in plan.tensors.values())
    weight_map = {name: plan.file for plan in plans for name in plan.names}
    document = {
        "metadata": {"total_size": total_bytes},
        "weight_map": dict(sorted(weight_map.items())),
    }
    return json.dumps(document, indent=1).encode()


def _manifest(
    source: Checkpoint,
    plans: Sequence[_Plan],
    partitions: Sequence[Partition],
    *,
    content_id: str,
    sums: Mapping[str, str],
) -> Manifest:
    tensors = {
        name: ManifestTensor(
            partition=partition,
            offset=entry.offset,
            size_bytes=entry.size_bytes,
            dtype=entry.dtype,
            shape=entry.shape,
            sha256=sums[name],
        )
        for partition, plan in enumerate(plans)
        for name, entry in plan.tensors.items()
    }
    return Manifest(
        format=FORMAT,
        version=VERSION,
        content_id=content_id,
        layout_id=layout_id_of(
            "packed", [plan.header for plan in plans], [plan.size_bytes for plan in plans]
        ),
        chunk_bytes=CHUNK_BYTES,
        aliases=dict(source.aliases),
        partitions=tuple(partitions),
        tensors=tensors,
    )


def _copy_file(source: Path, target: Path) -> None:
    try:
        stream = source.open("rb")
    except OSError as exc:
        raise ReadFailed(source, 0, exc.errno or 0) from exc
    with stream, target.open("xb") as copy:
        shutil.copyfileobj(stream, copy)
        copy.flush()
        os.fsync(copy.fileno())


def _write_file(path: Path, data: bytes) -> None:
    with path.open("xb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())
