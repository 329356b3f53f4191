"""Loaded weights as tensors, in whatever process needs them."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from pilotlight.native_loader._native import ChunkView
from pilotlight.native_loader.errors import LayoutMismatch, WeightsClosed
from pilotlight.native_loader.formats.checkpoint import Checkpoint
from pilotlight.native_loader.formats.dtypes import ITEM_BITS, is_aligned
from pilotlight.native_loader.formats.parts import (
    CHUNK_BYTES,
    PLACE_BYTES,
    CheckpointFile,
    Place,
    TensorEntry,
)
from pilotlight.native_loader.load_plans import check_places
from pilotlight.native_loader.memory.pool import ChunkPool
from pilotlight.native_loader.memory.tensor_views import tensors_over

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True, kw_only=True)
class FileLayout:
    """Where a weight file lies in a pool."""

    size_bytes: int
    chunks: tuple[int, ...]
    """Chunks of the pool, in the order of the file."""
    offset: int = 0
    """Where in the first chunk the file begins: a small one may share its chunk with others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightLayout:
    """All that a process needs to map a loaded checkpoint; plain data for msgspec."""

    chunk_bytes: int
    files: tuple[FileLayout, ...]
    tensors: dict[str, TensorEntry]
    aliases: dict[str, str]

    @classmethod
    def of(
        cls, checkpoint: Checkpoint, places: Sequence[int | Place], chunk_bytes: int
    ) -> WeightLayout:
        """Describe a checkpoint whose chunk i was loaded into `places[i]` of a pool.

        Raises:
            LayoutMismatch: such places can't hold it, or not so that its files can be mapped.
        """
        check_places(checkpoint, places, chunk_bytes)
        held: list[list[int | Place]] = [[] for _ in checkpoint.files]
        for chunk, place in zip(checkpoint.chunks, places, strict=True):
            held[chunk.file].append(place)
        return cls(
            chunk_bytes=chunk_bytes,
            files=tuple(
                _file_layout(file, of_file, chunk_bytes)
                for file, of_file in zip(checkpoint.files, held, strict=True)
            ),
            tensors=dict(checkpoint.tensors),
            aliases=dict(checkpoint.aliases),
        )


def _file_layout(
    file: CheckpointFile, places: Sequence[int | Place], chunk_bytes: int
) -> FileLayout:
    chunks = [place.chunk if isinstance(place, Place) else place for place in places]
    offsets = [place.offset if isinstance(place, Place) else 0 for place in places]
    if len(places) > 1 and (any(offsets) or chunk_bytes != CHUNK_BYTES):
        raise LayoutMismatch(f"{file.path} has several chunks, which must fill the pool's")
    return FileLayout(size_bytes=file.size_bytes, chunks=tuple(chunks), offset=sum(offsets))


class AttachedWeights:
    """A loaded checkpoint in this process.

    Of a shared pool each file is one contiguous private mapping: reading is shared with
    every other process, writing stays here. The descriptor may be closed once this is
    made; a mapping lives as long as one of its tensors. A pool that is not shared
    has its files where they were loaded, and lives as long as one of its tensors.
    """

    def __init__(self, pool: int | ChunkPool, layout: WeightLayout) -> None:
        """Map the files of a pool, or of the one with that descriptor; no byte is copied.

        Raises:
            LayoutMismatch: the layout does not fit the pool or itself.
            MemoryRefused: the kernel does not map them.
            PoolClosed: as it says.
        """
        self._layout = layout
        self._views: list[ChunkView] | None = [
            _viewed(pool, layout.chunk_bytes, file) for file in layout.files
        ]
        self._size_bytes = 0
        self._copied_bytes = 0
        for name, entry in layout.tensors.items():
            _check_entry(name, entry, layout.files)
            self._size_bytes += entry.size_bytes
            # Every file is mapped at a multiple of 4096, so the offset tells.
            if not is_aligned(entry.offset, entry.dtype):
                self._copied_bytes += entry.size_bytes

    @property
    def size_bytes(self) -> int:
        """Return the sum of the tensors' sizes."""
        return self._size_bytes

    @property
    def aliases(self) -> Mapping[str, str]:
        """Return the declared aliases: the name that is not stored, to the one that is."""
        return self._layout.aliases

    @property
    def copied_bytes(self) -> int:
        """Return the bytes of tensors that `tensors` copies: those not aligned to their items."""
        return self._copied_bytes

    def content(self, file: int) -> memoryview:
        """Return all bytes of a weight file.

        Raises:
            WeightsClosed: as it says.
        """
        if self._views is None:
            raise WeightsClosed
        # It has the buffer protocol, which Python 3.11 can't say in types.
        return memoryview(cast("Any", self._views[file]))

    def tensors(self) -> dict[str, torch.Tensor]:
        """Return every stored tensor, without a copy where it is aligned to its item size.

        F4 becomes torch's type of two values per byte, with the last dimension
        halved; where torch has no such type (F6), a tensor is its bytes, as one
        dimension of uint8.

        Raises:
            WeightsClosed: as it says.
        """
        if self._views is None:
            raise WeightsClosed
        return tensors_over(self._views, self._layout.tensors)

    def when_unmapped(self, note: Callable[[int], object]) -> None:
        """Have `note` called with a file's number once nothing maps that file any more.

        Neither these weights nor a tensor holds it then. The call may come in any
        thread and in the middle of anything, so `note` must not take locks.

        Raises:
            WeightsClosed: as it says.
        """
        if self._views is None:
            raise WeightsClosed
        for file, view in enumerate(self._views):
            weakref.finalize(view, note, file).atexit = False

    def close(self) -> None:
        """Let go of the mappings; those that tensors live in stay until the last one goes."""
        self._views = None


def _viewed(pool: int | ChunkPool, chunk_bytes: int, file: FileLayout) -> ChunkView:
    if file.offset % PLACE_BYTES:
        raise LayoutMismatch(f"a file can't begin at byte {file.offset:,d} of a chunk")
    try:
        if isinstance(pool, ChunkPool) and not pool.is_shared:
            return ChunkView(pool.native, file.chunks, file.size_bytes, file.offset)
        fd = pool.fd if isinstance(pool, ChunkPool) else pool
        return ChunkView(fd, chunk_bytes, file.chunks, file.size_bytes, file.offset)
    except (ValueError, TypeError) as exc:
        # A number that no chunk can have is a TypeError.
        raise LayoutMismatch(str(exc)) from exc


def _check_entry(name: str, entry: TensorEntry, files: Sequence[FileLayout]) -> None:
    is_inside = (
        0 <= entry.file < len(files)
        and entry.offset >= 0 <= entry.size_bytes
        and entry.offset + entry.size_bytes <= files[entry.file].size_bytes
    )
    if not is_inside:
        raise LayoutMismatch(f"tensor {name!r} does not lie in its file")
    n_bits = math.prod(entry.shape) * ITEM_BITS.get(entry.dtype, 0)
    if n_bits != entry.size_bytes * 8 or min(entry.shape, default=0) < 0:
        raise LayoutMismatch(f"tensor {name!r} does not have the bytes that its items need")
