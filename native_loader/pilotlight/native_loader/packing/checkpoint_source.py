"""Checkpoints of safetensors, packed or not, as `pack` reads them."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from pilotlight.native_loader.formats.assembly import whole_pieces
from pilotlight.native_loader.formats.checkpoint import Checkpoint
from pilotlight.native_loader.formats.scanning import OpenFile, opened
from pilotlight.native_loader.formats.sliced import SlicedTensor, whole_tensors
from pilotlight.native_loader.packing.sources import SourceTensor


class CheckpointSource:
    """A checkpoint that `load` could load too."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._checkpoint = checkpoint
        self._wholes = whole_tensors(checkpoint.tensors, checkpoint.sliced)
        self.tensors: Mapping[str, SourceTensor] = {
            name: SourceTensor(dtype=whole.dtype, shape=whole.shape)
            for name, whole in self._wholes.items()
        }

    @property
    def path(self) -> Path:
        """The directory."""
        return self._checkpoint.path

    @property
    def aliases(self) -> Mapping[str, str]:
        """Declared aliases: the name that is not stored, to the one that is."""
        return self._checkpoint.aliases

    @property
    def execution_files(self) -> Sequence[str]:
        """Names of the small files beside the weights."""
        return self._checkpoint.execution_files

    @property
    def content_id(self) -> str:
        """What it is, where it says so itself; else ""."""
        return self._checkpoint.content_id

    @contextmanager
    def opened(self) -> Generator[_Stream]:
        """Open its files, which must be those that were opened as a checkpoint."""
        with ExitStack() as stack:
            files = [stack.enter_context(opened(file)) for file in self._checkpoint.files]
            yield _Stream(files, self._wholes)


class _Stream:
    def __init__(self, files: Sequence[OpenFile], wholes: Mapping[str, SlicedTensor]) -> None:
        self._files = files
        self._wholes = wholes

    def pieces(self, name: str) -> Iterator[memoryview]:
        return whole_pieces(self._files, self._wholes[name])
