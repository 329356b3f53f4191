"""What checkpoints are made of: files, tensors, chunks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import msgspec

CHUNK_BYTES = 16 << 20
"""The unit of residency, checksum and transfer."""

PLACE_BYTES = 4096
"""Places begin at multiples of it, as direct reads want it, and are multiples of it long."""


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


_Count = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]


# Thousands of tensors are made whenever a checkpoint is opened or sent: both classes below are
# structs because those are made several times faster than dataclasses.


class HeaderTensor(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A tensor as its file's header describes it."""

    dtype: str
    shape: tuple[_Count, ...]
    data_offsets: tuple[_Count, _Count]
    """Where its bytes begin and end, from the start of the data."""

    @property
    def begin(self) -> int:
        """Return where its bytes begin, from the start of the data."""
        return self.data_offsets[0]

    @property
    def end(self) -> int:
        """Return where its bytes end."""
        return self.data_offsets[1]


class TensorEntry(msgspec.Struct, frozen=True, kw_only=True, gc=False):
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a chunk of a small checkpoint goes: into a pool's chunk that it shares."""

    chunk: int
    """Of the pool."""
    offset: int
    """From the start of the pool's chunk; a multiple of `PLACE_BYTES`."""


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
