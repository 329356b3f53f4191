"""What `pack` reads from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from pilotlight.native_loader.placements.slices import size_bytes_of


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceTensor:
    """What a tensor is, wherever it lies."""

    dtype: str
    """As safetensors names it."""
    shape: tuple[int, ...]

    @property
    def size_bytes(self) -> int:
        """Return its size."""
        return size_bytes_of(self.dtype, self.shape)


class TensorStream(Protocol):
    """An open source, whose tensors' bytes can be had."""

    def pieces(self, name: str) -> Iterator[memoryview]:
        """Yield a tensor's bytes from the first to the last, in row-major order.

        Each piece is overwritten when the next is asked for.

        Raises:
            LoaderError: they can't be had, or are not what the source was when it was opened.
        """
        ...


class Source(Protocol):
    """A checkpoint of any format, as `pack` reads it."""

    @property
    def path(self) -> Path:
        """The directory."""
        ...

    @property
    def tensors(self) -> Mapping[str, SourceTensor]:
        """What is stored."""
        ...

    @property
    def aliases(self) -> Mapping[str, str]:
        """Declared aliases: the name that is not stored, to the one that is."""
        ...

    @property
    def execution_files(self) -> Sequence[str]:
        """Names of the small files beside the weights."""
        ...

    @property
    def content_id(self) -> str:
        """What it is, where it says so itself; else ""."""
        ...

    def opened(self) -> AbstractContextManager[TensorStream]:
        """Open it for reading; it must stay as it is until the block ends."""
        ...
