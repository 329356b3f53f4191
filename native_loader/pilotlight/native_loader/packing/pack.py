"""Packing: rewriting a checkpoint so that it loads fast and says what it is."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from pilotlight.native_loader.errors import (
    ContentMismatch,
    DestinationExists,
    LoaderError,
    PackFailed,
    ReadFailed,
)
from pilotlight.native_loader.formats.checkpoint import Checkpoint
from pilotlight.native_loader.formats.confinement import Roots
from pilotlight.native_loader.formats.content import content_id_of
from pilotlight.native_loader.formats.manifest import (
    FORMAT,
    MANIFEST_NAME,
    VERSION,
    Manifest,
    ManifestPart,
    ManifestSlice,
    ManifestTensor,
    Partition,
    read_manifest,
)
from pilotlight.native_loader.formats.model_config import read_model_config
from pilotlight.native_loader.formats.partition_layouts import (
    ADAPTER_NAME,
    PartitionLayout,
    lay_out,
)
from pilotlight.native_loader.formats.partitions import partitions_layout_id
from pilotlight.native_loader.formats.parts import CHUNK_BYTES
from pilotlight.native_loader.formats.scanning import ProgressCallback
from pilotlight.native_loader.formats.shards import layout_id_of
from pilotlight.native_loader.formats.weight_files import INDEX_NAME
from pilotlight.native_loader.packing.checkpoint_source import CheckpointSource
from pilotlight.native_loader.packing.checksummed_file import ChecksummedFile
from pilotlight.native_loader.packing.pack_plans import PackPlan, PlanKind
from pilotlight.native_loader.packing.sources import Source, TensorStream
from pilotlight.native_loader.packing.splitting import SliceSplitter
from pilotlight.native_loader.packing.staging import StagingBusy, publish, staged
from pilotlight.native_loader.placements.slice_rules import SliceRules


def pack(
    source: Checkpoint | Source,
    destination: str | Path,
    *,
    plan: PackPlan | None = None,
    rules: SliceRules | None = None,
    replace: bool = False,
    progress: ProgressCallback | None = None,
) -> Checkpoint:
    """Write a packed copy of a checkpoint and open it.

    Memory use is constant; equal sources give equal bytes. The destination appears
    whole, with its last rename, or not at all. With `replace`, a packed checkpoint
    that is there is replaced; nothing else ever is. `rules` say how a tensor-parallel
    plan cuts; without them it is the usual way, for as many heads as config.json says.

    Raises:
        DestinationExists: the destination is taken.
        PackFailed: it can't be written (a full disk, say); nothing was left behind.
        SliceRefused, TooManyPartitions: it can't be cut as the plan asks.
        ReadFailed, FileChanged, ContentMismatch: the source can't be read, or is damaged.
    """
    read = CheckpointSource(source) if isinstance(source, Checkpoint) else source
    layouts = lay_out(read, plan or PackPlan(), rules or SliceRules.of_config(_config_of(read)))
    target = Path(os.path.abspath(destination))
    _check_destination(target, replace=replace)
    try:
        _check_room(layouts, target)
        with staged(target) as place:
            _Packing(read, plan or PackPlan(), layouts, place, progress).write()
            publish(place, target)
    except StagingBusy as exc:
        raise PackFailed(target, "another process is packing to the same place") from exc
    except OSError as exc:
        if isinstance(exc, LoaderError):
            raise
        raise PackFailed(target, (exc.strerror or str(exc)).lower()) from exc
    return Checkpoint.open(target)


def _config_of(source: Source) -> Mapping[str, object]:
    return read_model_config(source.path) if "config.json" in source.execution_files else {}


def _check_destination(target: Path, *, replace: bool) -> None:
    if not os.path.lexists(target) or (target.is_dir() and not any(target.iterdir())):
        return
    if not replace:
        raise DestinationExists(target, "exists already")
    if target.is_symlink() or not target.is_dir() or read_manifest(target, Roots([])) is None:
        raise DestinationExists(target, "is no packed checkpoint, so it is not replaced")


def _check_room(layouts: Sequence[PartitionLayout], target: Path) -> None:
    room = os.statvfs(target.parent)
    free_bytes = room.f_bavail * room.f_frsize
    needed_bytes = sum(layout.size_bytes for layout in layouts)
    if needed_bytes > free_bytes:
        raise PackFailed(
            target, f"it needs {needed_bytes:,d} bytes and the disk has {free_bytes:,d} left"
        )


class _Packing:
    """One packed checkpoint, on its way into a directory."""

    def __init__(
        self,
        source: Source,
        plan: PackPlan,
        layouts: Sequence[PartitionLayout],
        place: Path,
        progress: ProgressCallback | None,
    ) -> None:
        self._source = source
        self._plan = plan
        self._layouts = layouts
        self._place = place
        self._progress = progress
        self._sums: dict[str, str] = {}

    def write(self) -> None:
        """Write all of it, the manifest last."""
        partitions = self._write_partitions()
        content_id = content_id_of(self._source.tensors, self._sums)
        if self._source.content_id and content_id != self._source.content_id:
            raise ContentMismatch(self._source.path, self._source.content_id, content_id)
        if self._has_index:
            _write_file(self._place / INDEX_NAME, self._index())
        for name in self._source.execution_files:
            _copy_file(self._source.path / name, self._place / name)
        _write_file(self._place / MANIFEST_NAME, self._manifest(partitions, content_id).encode())

    @property
    def _has_index(self) -> bool:
        """Whether other tools can read all files as one checkpoint."""
        is_adapter = self._layouts[0].file == ADAPTER_NAME
        return self._plan.kind is not PlanKind.TENSOR_PARALLEL and not is_adapter

    def _write_partitions(self) -> list[Partition]:
        with ExitStack() as stack:
            stream = stack.enter_context(self._source.opened())
            writers = [
                stack.enter_context(ChecksummedFile(self._place / layout.file))
                for layout in self._layouts
            ]
            for writer, layout in zip(writers, self._layouts, strict=True):
                writer.write(layout.header)
            # Slices of a tensor are as long in every partition, and so in the same order.
            names = dict.fromkeys(name for layout in self._layouts for name in layout.tensors)
            for name in names:
                self._sums[name] = self._copy_tensor(stream, name, writers)
                self._tell(writers)
            for writer in writers:
                writer.sync()
            return [
                self._described(number, layout, writer)
                for number, (layout, writer) in enumerate(zip(self._layouts, writers, strict=True))
            ]

    def _copy_tensor(
        self, stream: TensorStream, name: str, writers: Sequence[ChecksummedFile]
    ) -> str:
        """Write a tensor wherever it goes and return the SHA-256 of all of it."""
        tensor = self._source.tensors[name]
        sinks = [
            SliceSplitter(tensor.dtype, tensor.shape, layout.slices.get(name), writer.write)
            for layout, writer in zip(self._layouts, writers, strict=True)
            if name in layout.tensors
        ]
        digest = hashlib.sha256()
        for piece in stream.pieces(name):
            digest.update(piece)
            for sink in sinks:
                sink.feed(piece)
        return digest.hexdigest()

    def _tell(self, writers: Sequence[ChecksummedFile]) -> None:
        if self._progress is not None:
            self._progress(
                sum(writer.size_bytes for writer in writers),
                sum(layout.size_bytes for layout in self._layouts),
            )

    def _described(
        self, number: int, layout: PartitionLayout, writer: ChecksummedFile
    ) -> Partition:
        return Partition(
            file=layout.file,
            device=number,
            size_bytes=layout.size_bytes,
            data_offset=len(layout.header),
            crc32c=tuple(writer.crc32c),
        )

    def _index(self) -> bytes:
        total_bytes = sum(tensor.size_bytes for tensor in self._source.tensors.values())
        weight_map = {name: layout.file for layout in self._layouts for name in layout.tensors}
        document = {
            "metadata": {"total_size": total_bytes},
            "weight_map": dict(sorted(weight_map.items())),
        }
        return json.dumps(document, indent=1).encode()

    def _manifest(self, partitions: Sequence[Partition], content_id: str) -> Manifest:
        return Manifest(
            format=FORMAT,
            version=VERSION,
            content_id=content_id,
            layout_id=self._layout_id(),
            chunk_bytes=CHUNK_BYTES,
            plan=self._plan.kind,
            aliases=dict(self._source.aliases),
            partitions=tuple(partitions),
            tensors={
                name: ManifestTensor(
                    dtype=tensor.dtype,
                    shape=tensor.shape,
                    sha256=self._sums[name],
                    parts=tuple(self._parts(name)),
                )
                for name, tensor in self._source.tensors.items()
            },
        )

    def _layout_id(self) -> str:
        headers = [layout.header for layout in self._layouts]
        sizes = [layout.size_bytes for layout in self._layouts]
        if self._plan.kind is not PlanKind.TENSOR_PARALLEL:
            return layout_id_of("packed", headers, sizes)
        return partitions_layout_id(
            [
                layout_id_of("packed", [header], [size])
                for header, size in zip(headers, sizes, strict=True)
            ]
        )

    def _parts(self, name: str) -> Sequence[ManifestPart]:
        parts: list[ManifestPart] = []
        for number, layout in enumerate(self._layouts):
            entry, cut = layout.tensors.get(name), layout.slices.get(name)
            if entry is not None:
                parts.append(
                    ManifestPart(
                        partition=number,
                        offset=entry.offset,
                        size_bytes=entry.size_bytes,
                        slice=None
                        if cut is None
                        else ManifestSlice(dim=cut.dim, ranges=cut.ranges),
                    )
                )
        return parts


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
