"""Checkpoints: what they hold and where it lies; nothing but headers is read."""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pilotlight.native_loader.confinement import Roots
from pilotlight.native_loader.content import compute_content_id
from pilotlight.native_loader.errors import CorruptCheckpoint, NotACheckpoint, ReadFailed
from pilotlight.native_loader.execution_files import find_execution_files
from pilotlight.native_loader.ledger import ChecksumLedger
from pilotlight.native_loader.manifest import MANIFEST_NAME, Manifest, read_manifest
from pilotlight.native_loader.parts import (
    CHUNK_BYTES,
    CheckpointFile,
    Chunk,
    TensorEntry,
    cut_into_chunks,
)
from pilotlight.native_loader.scanning import ProgressCallback
from pilotlight.native_loader.shards import Shards, read_shards
from pilotlight.native_loader.verification import Verification, verify
from pilotlight.native_loader.weight_files import (
    INDEX_NAME,
    WeightFiles,
    check_plain_name,
    find_weight_files,
)

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

    @classmethod
    def open(cls, path: str | Path, *, roots: Sequence[Path] = ()) -> Checkpoint:
        """Read the headers of a safetensors or packed checkpoint and check all they say.

        `path` is a directory, or one safetensors file. With `roots`, it and every
        file in it must lie inside one of them once all links are followed.

        Raises:
            NotACheckpoint: there is none, or (OutsideRoots, PickleRefused) none that may be opened.
            CorruptCheckpoint: a file breaks a rule of its format.
            UnsupportedVersion: a newer release packed it.
            ReadFailed: the file system failed.
        """
        return _open(Path(path), Roots(roots))

    @property
    def size_bytes(self) -> int:
        """Return the sum of the weight files' sizes."""
        return sum(file.size_bytes for file in self.files)

    @property
    def n_chunks(self) -> int:
        """Return how many chunks hold it."""
        return len(self.chunks)

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
            ReadFailed, FileChanged: as they say.
        """
        return verify(self, ledger, progress)


def _open(path: Path, roots: Roots) -> Checkpoint:
    try:
        roots.check(path)
        if not path.exists():
            raise NotACheckpoint(path, "does not exist")
        manifest = read_manifest(path, roots) if path.is_dir() else None
        if manifest is not None:
            return _open_packed(path, manifest, roots)
        return _open_safetensors(find_weight_files(path, roots), roots)
    except OSError as exc:
        if exc.errno is None or isinstance(exc, ReadFailed):
            raise
        if exc.errno in (errno.EACCES, errno.ELOOP, errno.ENAMETOOLONG):
            raise NotACheckpoint(path, os.strerror(exc.errno).lower()) from exc
        raise ReadFailed(exc.filename or path, 0, exc.errno) from exc


def _open_safetensors(found: WeightFiles, roots: Roots) -> Checkpoint:
    shards = read_shards(
        found.directory, found.names, format="safetensors", roots=roots, mentioned_in=INDEX_NAME
    )
    _check_index(found, shards)
    return Checkpoint(
        path=found.directory,
        format="safetensors",
        files=shards.files,
        tensors=shards.tensors,
        aliases=shards.aliases,
        chunks=cut_into_chunks([file.size_bytes for file in shards.files]),
        checksums=None,
        content_id="",
        layout_id=shards.layout_id,
        execution_files=find_execution_files(found.directory, roots),
    )


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
    shards = read_shards(directory, names, format="packed", roots=roots, mentioned_in=MANIFEST_NAME)
    chunks = cut_into_chunks([file.size_bytes for file in shards.files])
    checksums = tuple(crc for partition in manifest.partitions for crc in partition.crc32c)
    # The headers say where everything lies; the layout id ties them to what was packed.
    is_ours = shards.layout_id == manifest.layout_id and len(checksums) == len(chunks)
    if not is_ours or shards.tensors.keys() != manifest.tensors.keys():
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
    )
