"""What checkpoints are made of: files, tensors, chunks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

CHUNK_BYTES = 16 << 20
"""The unit of residency, checksum and transfer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointFile:
    """A weight file, with all that tells whether it is still the same."""

    path: Path
    size_bytes: int
    data_offset: int
    """Where the tensors' bytes begin, from the start of the file."""
    device: int
    """The disk, by its device number."""
    inode: int
    mtime_ns: int
    ctime_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorEntry:
    """Where a tensor lies and what it is."""

    file: int
    offset: int
    """From the start of the file."""
    size_bytes: int
    dtype: str
    """As safetensors names it: "F32", "BF16"."""
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """A range of a file, at most `CHUNK_BYTES` long; each file starts a new chunk."""

    file: int
    offset: int
    length: int

    @property
    def number(self) -> int:
        """Return which chunk of its file it is."""
        return self.offset // CHUNK_BYTES


class Stored(Protocol):
    """What a checkpoint holds, for those who read its bytes."""

    @property
    def path(self) -> Path:
        """The directory."""
        ...

    @property
    def files(self) -> tuple[CheckpointFile, ...]:
        """The weight files."""
        ...

    @property
    def tensors(self) -> Mapping[str, TensorEntry]:
        """Where each stored tensor lies."""
        ...

    @property
    def checksums(self) -> tuple[int, ...] | None:
        """CRC-32C of every chunk, where the checkpoint itself says it."""
        ...

    @property
    def content_id(self) -> str:
        """What it is, where the checkpoint itself says it; else ""."""
        ...


def cut_into_chunks(sizes_bytes: Sequence[int]) -> tuple[Chunk, ...]:
    """Return the chunks of files of those sizes."""
    return tuple(
        Chunk(file=file, offset=offset, length=min(CHUNK_BYTES, size - offset))
        for file, size in enumerate(sizes_bytes)
        for offset in range(0, size, CHUNK_BYTES)
    )


def n_chunks_of(file: CheckpointFile) -> int:
    """Return how many chunks hold a file."""
    return -(-file.size_bytes // CHUNK_BYTES)
