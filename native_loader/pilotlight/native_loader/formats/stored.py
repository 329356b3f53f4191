"""What a checkpoint holds, for those who read its bytes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from pilotlight.native_loader.formats.parts import CheckpointFile, TensorEntry
from pilotlight.native_loader.formats.sliced import SlicedTensor


class Stored(Protocol):
    """A checkpoint's files and tensors, and what is known of their bytes."""

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
    def aliases(self) -> Mapping[str, str]:
        """Declared aliases: the name that is not stored, to the one that is."""
        ...

    @property
    def sliced(self) -> Mapping[str, SlicedTensor]:
        """All tensors, where they are stored in slices; else empty."""
        ...

    @property
    def checksums(self) -> tuple[int, ...] | None:
        """CRC-32C of every chunk, where the checkpoint itself says it."""
        ...

    @property
    def content_id(self) -> str:
        """What it is, where the checkpoint itself says it; else ""."""
        ...
