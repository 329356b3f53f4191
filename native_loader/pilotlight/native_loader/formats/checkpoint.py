"""Checkpoints: what they hold and where it lies; nothing but headers is read."""

from __future__ import annotations

import errno
import os
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import msgspec

from pilotlight.native_loader.errors import (
    CorruptCheckpoint,
    NoSuchCheckpoint,
    NotACheckpoint,
    ReadFailed,
)
from pilotlight.native_loader.formats.confinement import Roots
from pilotlight.native_loader.formats.content import compute_content_id
from pilotlight.native_loader.formats.execution_files import find_execution_files
from pilotlight.native_loader.formats.ledger import ChecksumLedger
from pilotlight.native_loader.formats.manifest import MANIFEST_NAME, Manifest, read_manifest
from pilotlight.native_loader.formats.model_config import (
    CONFIG_NAME,
    read_model_config,
    tied_aliases,
)
from pilotlight.native_loader.formats.partitions import (
    Partitions,
    partitions_layout_id,
    read_partitions,
)
from pilotlight.native_loader.formats.parts import (
    CHUNK_BYTES,
    CheckpointFile,
    Chunk,
    TensorEntry,
    cut_into_chunks,
)
from pilotlight.native_loader.formats.scanning import ProgressCallback
from pilotlight.native_loader.formats.shards import Shards, read_shards
from pilotlight.native_loader.formats.sliced import SlicedTensor
from pilotlight.native_loader.formats.verification import Verification, verify
from pilotlight.native_loader.formats.weight_files import (
    INDEX_NAME,
    WeightFiles,
    check_plain_name,
    find_weight_files,
)
from pilotlight.native_loader.packing.pack_plans import PlanKind

CheckpointFormat = Literal["safetensors", "packed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """An immutable checkpoint, as it was when it was opened."""

    path: Path
    """The directory."""
    format: CheckpointFormat
    files: tuple[CheckpointFile, ...]
    tensors: Mapping[str, TensorEntry]
    aliases: Mapping[str, str]
    """Declared aliases: the name that is not stored, to the one that is."""
    chunks: tuple[Chunk, ...]
    checksums: tuple[int, ...] | None
    """CRC-32C of every chunk, where the checkpoint itself says it."""
    content_id: str
    """What it is; "" where nobody has hashed it yet, see `compute_content_id`."""
    layout_id: str
    """How it lies on disk: equal for equal headers and sizes, whatever the weights are."""
    execution_files: tuple[str, ...]
    """Names of the small files beside the weights, such as config.json."""
    sliced: Mapping[str, SlicedTensor] = field(default_factory=dict[str, SlicedTensor])
    """All tensors, where each partition stores a slice of them; else empty.

    `tensors` then has the slices, each as NAME@PARTITION; `partition` opens one."""

    @classmethod
    def open(
        cls,
        path: str | Path,
        *,
        roots: Sequence[Path] = (),
        contents: Mapping[str, memoryview] | None = None,
    ) -> Checkpoint:
        """Read the headers of a safetensors or packed checkpoint and check all they say.

        `path` is a directory, or one safetensors file. With `roots`, it and every
        file in it must lie inside one of them once all links are followed. Headers
        of safetensors whose `contents` are in memory already, by name, are taken from there.

        Raises:
            NotACheckpoint: there is none, or (OutsideRoots, PickleRefused) none that may be opened.
            CorruptCheckpoint: a file breaks a rule of its format.
            UnsupportedVersion: a newer release packed it.
            ReadFailed: the file system failed.
        """
        return _open(Path(path), Roots(roots), contents)

    @classmethod
    def open_file(cls, file: str | Path) -> Checkpoint:
        """Read the header of one safetensors file, whatever its name and what lies beside it.

        Raises:
            NoSuchCheckpoint, NotACheckpoint, CorruptCheckpoint, ReadFailed: as `open` does.
        """
        return _open_file(Path(file))

    @property
    def size_bytes(self) -> int:
        """Return the sum of the weight files' sizes."""
        return sum(file.size_bytes for file in self.files)

    @property
    def n_chunks(self) -> int:
        """Return how many chunks hold it."""
        return len(self.chunks)

    @property
    def n_partitions(self) -> int:
        """Return how many devices it was packed for in slices; 1 where tensors are stored whole."""
        return len(self.files) if self.sliced else 1

    def partition(self, number: int) -> Checkpoint:
        """Return what one of several devices holds, as a checkpoint of its own.

        Its tensors have their plain names and the shapes of slices; that all of it
        makes up a whole is what the content id says, so a partition has none.

        Raises:
            ValueError: there is no such partition.
        """
        if not 0 <= number < self.n_partitions:
            raise ValueError(f"{self.path} has {self.n_partitions} partitions, and no {number}")
        return _partition(self, number) if self.sliced else self

    def model_config(self) -> Mapping[str, Any]:
        """Read config.json; nothing where it is absent, or no JSON object."""
        return read_model_config(self.path) if CONFIG_NAME in self.execution_files else {}

    def compute_content_id(self, progress: ProgressCallback | None = None) -> str:
        """Read everything and return what the checkpoint is, the same for every layout.

        Raises:
            ReadFailed, FileChanged: as they say.
        """
        return compute_content_id(self, progress)

    def verify(
        self,
        ledger: ChecksumLedger | None = None,
        progress: ProgressCallback | None = None,
    ) -> Verification:
        """Read everything and compare it with every checksum that is known.

        Raises:
            ChecksumMismatch: with file and chunk.
            ContentMismatch: all chunks are right and the content id is not.
            CorruptCheckpoint: the manifest says anything else of a tensor that is not so.
            ReadFailed, FileChanged: as they say.
        """
        return verify(self, ledger, progress)


def _open(path: Path, roots: Roots, contents: Mapping[str, memoryview] | None) -> Checkpoint:
    with _file_errors(path):
        roots.check(path)
        if not path.exists():
            raise NoSuchCheckpoint(path)
        manifest = read_manifest(path, roots) if path.is_dir() else None
        if manifest is not None:
            return _open_packed(path, manifest, roots)
        return _open_safetensors(find_weight_files(path, roots), roots, contents)


@contextmanager
def _file_errors(path: Path) -> Generator[None]:
    """Say what the file system refused in the loader's own errors."""
    try:
        yield
    except OSError as exc:
        if exc.errno is None or isinstance(exc, ReadFailed):
            raise
        if exc.errno in (errno.EACCES, errno.ELOOP, errno.ENAMETOOLONG):
            raise NotACheckpoint(path, os.strerror(exc.errno).lower()) from exc
        raise ReadFailed(exc.filename or path, 0, exc.errno) from exc


def _open_file(path: Path) -> Checkpoint:
    with _file_errors(path):
        if not path.exists():
            raise NoSuchCheckpoint(path)
        if path.is_dir():
            raise NotACheckpoint(path, "is a directory, where a file must be")
        found = WeightFiles(directory=path.parent, names=(path.name,))
        return _open_safetensors(found, Roots([]))


def _open_safetensors(
    found: WeightFiles, roots: Roots, contents: Mapping[str, memoryview] | None = None
) -> Checkpoint:
    shards = read_shards(
        found.directory,
        found.names,
        format="safetensors",
        roots=roots,
        mentioned_in=INDEX_NAME,
        contents=contents,
    )
    _check_index(found, shards)
    execution_files = find_execution_files(found.directory, roots)
    return Checkpoint(
        path=found.directory,
        format="safetensors",
        files=shards.files,
        tensors=shards.tensors,
        aliases=shards.aliases or _tied(found.directory, shards, execution_files, roots),
        chunks=cut_into_chunks([file.size_bytes for file in shards.files]),
        checksums=None,
        content_id="",
        layout_id=shards.layout_id,
        execution_files=execution_files,
    )


def _tied(
    directory: Path, shards: Shards, execution_files: Sequence[str], roots: Roots
) -> Mapping[str, str]:
    """Return the alias that config.json declares, where the headers declare none."""
    if CONFIG_NAME not in execution_files:
        return {}
    return tied_aliases(read_model_config(directory, roots), shards.tensors)


def _check_index(found: WeightFiles, shards: Shards) -> None:
    for name, file_name in found.weight_map.items():
        entry = shards.tensors.get(name)
        if entry is None or found.names[entry.file] != file_name:
            raise CorruptCheckpoint(
                found.directory / INDEX_NAME,
                f"says that {file_name} holds tensor {name!r}, which it does not",
            )


def _open_packed(directory: Path, manifest: Manifest, roots: Roots) -> Checkpoint:
    where = directory / MANIFEST_NAME
    if manifest.chunk_bytes != CHUNK_BYTES:
        raise CorruptCheckpoint(where, f"has chunks of {manifest.chunk_bytes:,d} bytes")
    names = [partition.file for partition in manifest.partitions]
    if not names:
        raise CorruptCheckpoint(where, "names no weight files")
    for name in names:
        check_plain_name(name, where)
    shards = _read_packed(directory, manifest, roots)
    sliced = shards.sliced if isinstance(shards, Partitions) else dict[str, SlicedTensor]()
    chunks = cut_into_chunks([file.size_bytes for file in shards.files])
    checksums = tuple(crc for partition in manifest.partitions for crc in partition.crc32c)
    # The headers say where everything lies; the layout id ties them to what was packed.
    is_ours = shards.layout_id == manifest.layout_id and len(checksums) == len(chunks)
    if not is_ours or (sliced or shards.tensors).keys() != manifest.tensors.keys():
        raise CorruptCheckpoint(where, "was not written for the weight files beside it")
    return Checkpoint(
        path=directory,
        format="packed",
        files=shards.files,
        tensors=shards.tensors,
        aliases=shards.aliases,
        chunks=chunks,
        checksums=checksums,
        content_id=manifest.content_id,
        layout_id=shards.layout_id,
        execution_files=find_execution_files(directory, roots),
        sliced=sliced,
    )


def _read_packed(directory: Path, manifest: Manifest, roots: Roots) -> Shards | Partitions:
    if manifest.plan is PlanKind.TENSOR_PARALLEL:
        return read_partitions(directory, manifest, roots)
    names = [partition.file for partition in manifest.partitions]
    return read_shards(directory, names, format="packed", roots=roots, mentioned_in=MANIFEST_NAME)


def _partition(checkpoint: Checkpoint, number: int) -> Checkpoint:
    file = checkpoint.files[number]
    own = [place for place, chunk in enumerate(checkpoint.chunks) if chunk.file == number]
    checksums = checkpoint.checksums
    tensors: dict[str, TensorEntry] = {}
    for name, whole in checkpoint.sliced.items():
        stored = whole.slice_in(number)
        if stored is not None:
            tensors[name] = msgspec.structs.replace(stored.entry, file=0)
    return Checkpoint(
        path=checkpoint.path,
        format=checkpoint.format,
        files=(file,),
        tensors=tensors,
        aliases=checkpoint.aliases,
        chunks=cut_into_chunks([file.size_bytes]),
        checksums=None if checksums is None else tuple(checksums[place] for place in own),
        content_id="",
        layout_id=partitions_layout_id([checkpoint.layout_id, str(number)]),
        execution_files=checkpoint.execution_files,
    )
