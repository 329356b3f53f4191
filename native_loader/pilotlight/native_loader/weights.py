"""Loaded weights as tensors, in whatever process needs them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from pilotlight.native_loader._native import ChunkView
from pilotlight.native_loader.checkpoint import Checkpoint
from pilotlight.native_loader.dtypes import ITEM_BITS, is_aligned, torch_type
from pilotlight.native_loader.errors import LayoutMismatch, WeightsClosed
from pilotlight.native_loader.loader import check_targets
from pilotlight.native_loader.parts import TensorEntry

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True, kw_only=True)
class FileLayout:
    """Where a weight file lies in a pool."""

    size_bytes: int
    chunks: tuple[int, ...]
    """Chunks of the pool, in the order of the file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightLayout:
    """All that a process needs to map a loaded checkpoint; plain data for msgspec."""

    chunk_bytes: int
    files: tuple[FileLayout, ...]
    tensors: dict[str, TensorEntry]
    aliases: dict[str, str]

    @classmethod
    def of(cls, checkpoint: Checkpoint, chunks: Sequence[int], chunk_bytes: int) -> WeightLayout:
        """Describe a checkpoint whose chunk i was loaded into the pool's `chunks[i]`.

        Raises:
            LayoutMismatch: such chunks can't hold it.
        """
        check_targets(checkpoint, chunks, chunk_bytes)
        held: list[list[int]] = [[] for _ in checkpoint.files]
        for chunk, target in zip(checkpoint.chunks, chunks, strict=True):
            held[chunk.file].append(target)
        return cls(
            chunk_bytes=chunk_bytes,
            files=tuple(
                FileLayout(size_bytes=file.size_bytes, chunks=tuple(targets))
                for file, targets in zip(checkpoint.files, held, strict=True)
            ),
            tensors=dict(checkpoint.tensors),
            aliases=dict(checkpoint.aliases),
        )


class AttachedWeights:
    """A loaded checkpoint, mapped into this process by the pool's descriptor.

    Each file is one contiguous private mapping: reading is shared with every
    other process, writing stays here. The descriptor may be closed once this is
    made; a mapping lives as long as one of its tensors.
    """

    def __init__(self, fd: int, layout: WeightLayout) -> None:
        """Map the files; no byte is copied.

        Raises:
            LayoutMismatch: the layout does not fit the pool or itself.
            MemoryRefused: the kernel does not map them.
        """
        self._layout = layout
        self._views: list[ChunkView] | None = [
            _mapped(fd, layout.chunk_bytes, file) for file in layout.files
        ]
        self._size_bytes = 0
        self._copied_bytes = 0
        for name, entry in layout.tensors.items():
            _check_entry(name, entry, layout.files)
            self._size_bytes += entry.size_bytes
            self._copied_bytes += _copied_bytes(entry)

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
        views = self._views
        return {
            name: _tensor(views[entry.file], entry) for name, entry in self._layout.tensors.items()
        }

    def close(self) -> None:
        """Let go of the mappings; those that tensors live in stay until the last one goes."""
        self._views = None


def _mapped(fd: int, chunk_bytes: int, file: FileLayout) -> ChunkView:
    try:
        return ChunkView(fd, chunk_bytes, file.chunks, file.size_bytes)
    except ValueError as exc:
        raise LayoutMismatch(str(exc)) from exc


def _check_entry(name: str, entry: TensorEntry, files: Sequence[FileLayout]) -> None:
    is_inside = (
        0 <= entry.file < len(files)
        and min(entry.offset, entry.size_bytes) >= 0
        and entry.offset + entry.size_bytes <= files[entry.file].size_bytes
    )
    if not is_inside or entry.dtype not in ITEM_BITS:
        raise LayoutMismatch(f"tensor {name!r} does not lie in its file")


def _copied_bytes(entry: TensorEntry) -> int:
    # Every file is mapped at a multiple of 2 MiB, so the offset tells.
    return 0 if is_aligned(entry.offset, entry.dtype) else entry.size_bytes


def _tensor(view: ChunkView, entry: TensorEntry) -> torch.Tensor:
    import torch

    type_and_shape = torch_type(entry.dtype, entry.shape)
    dtype, shape = type_and_shape or (torch.uint8, (entry.size_bytes,))
    if entry.size_bytes == 0:
        return torch.empty(shape, dtype=dtype)
    # A ChunkView has the buffer protocol, which Python 3.11 can't say in types.
    buffer = cast("Any", view)
    if not _copied_bytes(entry):
        n_items = entry.size_bytes // dtype.itemsize
        flat = torch.frombuffer(buffer, dtype=dtype, count=n_items, offset=entry.offset)
    else:
        raw = torch.frombuffer(
            buffer, dtype=torch.uint8, count=entry.size_bytes, offset=entry.offset
        )
        flat = raw.clone().view(dtype)
    return flat.reshape(shape)
