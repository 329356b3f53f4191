"""Checkpoints of `tensor.data_N` files with a `tensor_index.json`, as ServerlessLLM saves them.

The files are one after another a single range of bytes, in which the index has, for
each tensor, the place of its *storage*, its size, and the tensor's shape and stride.
"""

from __future__ import annotations

import math
import os
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import accumulate, count, takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec

from pilotlight.native_loader.errors import CorruptCheckpoint, NotACheckpoint
from pilotlight.native_loader.formats.confinement import Roots
from pilotlight.native_loader.formats.dtypes import ITEM_BITS, dtype_named
from pilotlight.native_loader.formats.execution_files import find_execution_files
from pilotlight.native_loader.formats.parts import CheckpointFile
from pilotlight.native_loader.formats.scanning import PIECE_BYTES, OpenFile, opened, regular_file
from pilotlight.native_loader.formats.unicode_text import is_unicode
from pilotlight.native_loader.formats.whole_files import read_whole
from pilotlight.native_loader.packing.sources import SourceTensor

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

INDEX_NAME = "tensor_index.json"
_DATA_NAME = "tensor.data_"
_MAX_INDEX_BYTES = 100_000_000
_BLOCK_BYTES = 8 * PIECE_BYTES
"""Put in order at once: the larger, the less often a storage is read."""
_Count = Annotated[int, msgspec.Meta(ge=0, le=2**62)]


class _Entry(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """One line of the index."""

    offset: _Count
    size_bytes: _Count
    shape: tuple[_Count, ...]
    stride: tuple[_Count, ...]
    dtype: str
    """As PyTorch shows it: "torch.float16"."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Stored:
    """A tensor's storage, and how the tensor lies in it."""

    offset: int
    size_bytes: int
    dtype: str
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    """In items."""

    @property
    def is_contiguous(self) -> bool:
        expected = 1
        for size, stride in reversed(list(zip(self.shape, self.stride, strict=True))):
            if size != 1 and stride != expected:
                return False
            expected *= size
        return True


@dataclass(frozen=True, slots=True, kw_only=True)
class _Dim:
    size: int
    stride: int
    """In items."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Place:
    """Where a storage begins, and how large its items are."""

    offset: int
    item_bytes: int


class ServerlessLLMSource:
    """A directory that ServerlessLLM's `save_model` or `save_dict` wrote."""

    def __init__(self, directory: Path) -> None:
        """Read its index and check it against the files.

        Raises:
            NotACheckpoint: it is none, or a tensor's place can't be known.
            CorruptCheckpoint: the index makes no sense, or the files are shorter than it says.
        """
        self.path = directory
        self.content_id = ""
        self.execution_files: Sequence[str] = find_execution_files(directory, Roots([]))
        self._files = _data_files(directory)
        index = _read_index(directory / INDEX_NAME)
        present_bytes = sum(file.size_bytes for file in self._files)
        _check_length(directory, index, present_bytes)
        stored = {name: _checked(directory, name, entry) for name, entry in index.items()}
        first: dict[_Stored, str] = {}
        self.aliases: Mapping[str, str] = {
            name: first[each]
            for name, each in stored.items()
            if first.setdefault(each, name) != name and each.size_bytes and name != "format"
        }
        self._stored = {name: each for name, each in stored.items() if name not in self.aliases}
        self.tensors: Mapping[str, SourceTensor] = {
            name: SourceTensor(dtype=each.dtype, shape=each.shape)
            for name, each in self._stored.items()
        }

    @contextmanager
    def opened(self) -> Generator[_Stream]:
        """Open the files, which must be those that the index was checked against."""
        with ExitStack() as stack:
            files = [stack.enter_context(opened(file)) for file in self._files]
            yield _Stream(files, [file.size_bytes for file in self._files], self._stored)


class _Stream:
    def __init__(
        self, files: Sequence[OpenFile], sizes: Sequence[int], stored: Mapping[str, _Stored]
    ) -> None:
        self._files = files
        self._starts = list(accumulate(sizes, initial=0))
        self._stored = stored

    def pieces(self, name: str) -> Iterator[memoryview]:
        stored = self._stored[name]
        if stored.is_contiguous:
            return self._range(stored.offset, stored.size_bytes)
        return self._in_order(stored)

    def _range(self, offset: int, length: int) -> Iterator[memoryview]:
        """Yield a range of the files put one after another."""
        end = offset + length
        for number, file in enumerate(self._files):
            start, stop = self._starts[number], self._starts[number + 1]
            if max(start, offset) < min(stop, end):
                yield from file.pieces(max(offset - start, 0), min(stop, end) - max(start, offset))

    def _in_order(self, stored: _Stored) -> Iterator[memoryview]:
        """Yield a tensor that lies in another order than its indexes'."""
        dims = [
            _Dim(size=size, stride=stride)
            for size, stride in zip(stored.shape, stored.stride, strict=True)
            if size != 1
        ]
        if all(dim.size for dim in dims):
            place = _Place(offset=stored.offset, item_bytes=ITEM_BITS[stored.dtype] // 8)
            yield from self._in_rows(place, dims, 0)

    def _in_rows(self, place: _Place, dims: Sequence[_Dim], first: int) -> Iterator[memoryview]:
        """Yield rows of an array whose first item is that number of its storage."""
        row_bytes = place.item_bytes * math.prod(dim.size for dim in dims[1:])
        if not dims or row_bytes <= _BLOCK_BYTES:
            yield from self._in_blocks(place, dims or [_Dim(size=1, stride=1)], row_bytes, first)
            return
        for row in range(dims[0].size):
            yield from self._in_rows(place, dims[1:], first + row * dims[0].stride)

    def _in_blocks(
        self, place: _Place, dims: Sequence[_Dim], row_bytes: int, first: int
    ) -> Iterator[memoryview]:
        import numpy as np

        per_block = _BLOCK_BYTES // row_bytes
        for row in range(0, dims[0].size, per_block):
            n_rows = min(per_block, dims[0].size - row)
            shape = [n_rows, *(dim.size for dim in dims[1:])]
            block = np.empty(shape, np.dtype(f"V{place.item_bytes}"))
            self._fill(block, place, [dim.stride for dim in dims], first + row * dims[0].stride)
            flat: NDArray[np.uint8] = block.reshape(-1).view(np.uint8)
            for begin in range(0, flat.size, PIECE_BYTES):
                yield flat[begin : begin + PIECE_BYTES].data

    def _fill(
        self, block: NDArray[np.void], place: _Place, strides: Sequence[int], first: int
    ) -> None:
        """Read an array's items, by halves where they lie too far apart to be read at once."""
        import numpy as np

        reaches = [(size - 1) * stride for size, stride in zip(block.shape, strides, strict=True)]
        span_bytes = (sum(reaches) + 1) * place.item_bytes
        if span_bytes <= PIECE_BYTES:
            raw = bytearray()
            for piece in self._range(place.offset + first * place.item_bytes, span_bytes):
                raw += piece
            items: NDArray[np.void] = np.frombuffer(raw, block.dtype)
            steps = [stride * place.item_bytes for stride in strides]
            block[...] = np.lib.stride_tricks.as_strided(items, block.shape, steps, writeable=False)
            return
        dim = reaches.index(max(reaches))
        half = block.shape[dim] // 2
        low, high = np.split(block, [half], axis=dim)
        self._fill(low, place, strides, first)
        self._fill(high, place, strides, first + half * strides[dim])


def is_serverlessllm(path: Path) -> bool:
    """Whether a path looks like a directory of this format."""
    return (path / INDEX_NAME).is_file() and (path / f"{_DATA_NAME}0").is_file()


def _data_files(directory: Path) -> list[CheckpointFile]:
    paths = (directory / f"{_DATA_NAME}{number}" for number in count())
    return [regular_file(path) for path in takewhile(os.path.lexists, paths)]


def _read_index(file: Path) -> dict[str, _Entry]:
    raw = read_whole(file, most_bytes=_MAX_INDEX_BYTES, roots=Roots([]))
    try:
        return msgspec.json.decode(raw, type=dict[str, _Entry])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise CorruptCheckpoint(file, f"is no index of tensors: {exc}") from exc


def _check_length(directory: Path, index: Mapping[str, _Entry], present_bytes: int) -> None:
    """Refuse what the writer is known to do: lose the last part of what it saves."""
    needed_bytes = max((each.offset + each.size_bytes for each in index.values()), default=0)
    if needed_bytes > present_bytes:
        raise CorruptCheckpoint(
            directory,
            f"its {_DATA_NAME}N files hold {present_bytes:,d} bytes, and its tensors need"
            f" {needed_bytes:,d}: the end was lost when it was saved, so pack the model that it"
            " was made of",
        )


def _checked(directory: Path, name: str, entry: _Entry) -> _Stored:
    where = directory / INDEX_NAME
    dtype = dtype_named(entry.dtype.removeprefix("torch."))
    if dtype is None or ITEM_BITS[dtype] < 8:
        raise CorruptCheckpoint(where, f"has tensor {name!r} of the unknown dtype {entry.dtype!r}")
    if name == "__metadata__" or not is_unicode(name):
        raise CorruptCheckpoint(where, f"has a tensor of the name {name!r}, which can't be stored")
    if len(entry.stride) != len(entry.shape):
        raise CorruptCheckpoint(where, f"has tensor {name!r} with strides for another shape")
    needed_bytes = _span(entry) * ITEM_BITS[dtype] // 8
    if needed_bytes > entry.size_bytes:
        raise CorruptCheckpoint(
            where,
            f"has tensor {name!r}, which needs {needed_bytes:,d} bytes, with {entry.size_bytes:,d}",
        )
    if needed_bytes < entry.size_bytes:
        raise NotACheckpoint(
            where,
            f"has tensor {name!r}, which is part of a larger storage, and the format does not say"
            " which part; pack the model that it was made of",
        )
    return _Stored(
        offset=entry.offset,
        size_bytes=entry.size_bytes,
        dtype=dtype,
        shape=entry.shape,
        stride=entry.stride,
    )


def _span(entry: _Entry) -> int:
    """Return how many items lie from a tensor's first to its last."""
    if 0 in entry.shape:
        return 0
    pairs = zip(entry.shape, entry.stride, strict=True)
    return 1 + sum((size - 1) * stride for size, stride in pairs)
