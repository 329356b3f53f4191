"""Content ids: what a checkpoint is, however it lies on disk."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Protocol

from pilotlight.native_loader.formats.assembly import whole_pieces
from pilotlight.native_loader.formats.scanning import ProgressCallback, opened, scan
from pilotlight.native_loader.formats.stored import Stored

_EMPTY_SHA256 = hashlib.sha256().hexdigest()


class Described(Protocol):
    """A tensor whose content is to be identified."""

    @property
    def dtype(self) -> str:
        """As safetensors names it."""
        ...

    @property
    def shape(self) -> tuple[int, ...]:
        """All dimensions."""
        ...


class TensorDigests:
    """Computes every tensor's SHA-256 while the files are scanned from start to end."""

    def __init__(self, stored: Stored) -> None:
        self._tensors = stored.tensors
        self.sha256: dict[str, str] = {
            name: _EMPTY_SHA256 for name, entry in stored.tensors.items() if not entry.size_bytes
        }
        self._waiting: list[list[str]] = [[] for _ in stored.files]
        for name in sorted(stored.tensors, key=lambda name: -stored.tensors[name].offset):
            if name not in self.sha256:
                self._waiting[stored.tensors[name].file].append(name)
        self._digest = hashlib.sha256()

    def visit(self, file: int, offset: int, piece: memoryview) -> None:
        """Take the next piece of a file."""
        waiting = self._waiting[file]
        end = offset + len(piece)
        while waiting:
            entry = self._tensors[waiting[-1]]
            entry_end = entry.offset + entry.size_bytes
            if entry.offset >= end:
                return
            self._digest.update(piece[max(entry.offset - offset, 0) : entry_end - offset])
            if entry_end > end:
                return
            self.sha256[waiting.pop()] = self._digest.hexdigest()
            self._digest = hashlib.sha256()

    def content_id(self) -> str:
        """Return the id, once all files were scanned."""
        return content_id_of(self._tensors, self.sha256)


def content_id_of(tensors: Mapping[str, Described], sha256: Mapping[str, str]) -> str:
    """Return the id of tensors whose bytes have those SHA-256 sums.

    It is the SHA-256 of one line of JSON per tensor, [name, dtype, shape, sum],
    sorted by name.
    """
    digest = hashlib.sha256()
    for name in sorted(tensors):
        entry = tensors[name]
        line = json.dumps([name, entry.dtype, list(entry.shape), sha256[name]])
        digest.update(f"{line}\n".encode())
    return digest.hexdigest()


def compute_content_id(stored: Stored, progress: ProgressCallback | None = None) -> str:
    """Read every tensor and return the id of what they are.

    Raises:
        ReadFailed, FileChanged: as they say.
    """
    if stored.sliced:
        return content_id_of(stored.sliced, digests_of_slices(stored, progress))
    digests = TensorDigests(stored)
    scan(stored.files, digests.visit, progress)
    return digests.content_id()


def digests_of_slices(stored: Stored, progress: ProgressCallback | None = None) -> dict[str, str]:
    """Read every tensor that is stored in slices and return its SHA-256.

    Raises:
        ReadFailed, FileChanged: as they say.
    """
    sha256: dict[str, str] = {}
    total_bytes = sum(entry.size_bytes for entry in stored.tensors.values())
    done_bytes = 0
    with ExitStack() as stack:
        files = [stack.enter_context(opened(file)) for file in stored.files]
        for name, tensor in stored.sliced.items():
            digest = hashlib.sha256()
            for piece in whole_pieces(files, tensor):
                digest.update(piece)
            sha256[name] = digest.hexdigest()
            done_bytes += sum(stored_slice.entry.size_bytes for stored_slice in tensor.slices)
            if progress is not None:
                progress(done_bytes, total_bytes)
    return sha256
