"""Comparing everything a checkpoint holds with every checksum that is known of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pilotlight.native_loader._native import crc32c
from pilotlight.native_loader.errors import ChecksumMismatch, ContentMismatch
from pilotlight.native_loader.formats.content import (
    TensorDigests,
    content_id_of,
    digests_of_slices,
)
from pilotlight.native_loader.formats.ledger import ChecksumLedger
from pilotlight.native_loader.formats.manifest_claims import check_claims
from pilotlight.native_loader.formats.parts import CHUNK_BYTES, CheckpointFile, n_chunks_of
from pilotlight.native_loader.formats.scanning import ProgressCallback, scan
from pilotlight.native_loader.formats.stored import Stored


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """What was compared; whatever differed was an error."""

    n_chunks: int
    n_verified: int
    """Chunks whose checksum was known and is right."""
    n_learned: int
    """Chunks whose checksum was not known; the ledger has it now, where there is one."""
    content_id: str
    """Of packed checkpoints, computed from the bytes and right; else ""."""


class ChunkChecksums:
    """Computes every chunk's CRC-32C while files are scanned, and compares what is known."""

    def __init__(
        self, files: Sequence[CheckpointFile], expected: Sequence[Sequence[int] | None]
    ) -> None:
        self._files = files
        self._expected = expected
        self.crc32c: list[list[int]] = [[] for _ in files]

    def visit(self, file: int, offset: int, piece: memoryview) -> None:
        """Take the next piece of a file.

        Raises:
            ChecksumMismatch: it completes a chunk that has another checksum than is known.
        """
        sums = self.crc32c[file]
        if offset % CHUNK_BYTES == 0:
            sums.append(0)
        sums[-1] = crc32c(piece, sums[-1])
        end = offset + len(piece)
        is_whole = end % CHUNK_BYTES == 0 or end == self._files[file].size_bytes
        expected = self._expected[file]
        if is_whole and expected is not None and expected[len(sums) - 1] != sums[-1]:
            number = len(sums) - 1
            raise ChecksumMismatch(self._files[file].path, number, expected[number], sums[-1])


def known_checksums(
    stored: Stored, ledger: ChecksumLedger | None
) -> tuple[tuple[int, ...] | None, ...]:
    """Return the known CRC-32C of each file's chunks, None for files of which none is known."""
    if stored.checksums is None:
        return tuple(ledger.find(file) if ledger else None for file in stored.files)
    known: list[tuple[int, ...]] = []
    start = 0
    for file in stored.files:
        end = start + n_chunks_of(file)
        known.append(stored.checksums[start:end])
        start = end
    return tuple(known)


def verify(
    stored: Stored, ledger: ChecksumLedger | None, progress: ProgressCallback | None
) -> Verification:
    """Do what `Checkpoint.verify` describes."""
    expected = known_checksums(stored, ledger)
    checksums = ChunkChecksums(stored.files, expected)
    digests = TensorDigests(stored)
    is_hashed = stored.content_id and not stored.sliced

    def visit(file: int, offset: int, piece: memoryview) -> None:
        checksums.visit(file, offset, piece)
        if is_hashed:
            digests.visit(file, offset, piece)

    scan(stored.files, visit, progress, from_disk=True)
    content_id = ""
    if stored.content_id:
        # Wholes that are sliced lie across all files, which are read once more.
        sha256 = digests_of_slices(stored) if stored.sliced else digests.sha256
        content_id = content_id_of(stored.sliced or stored.tensors, sha256)
        if content_id != stored.content_id:
            raise ContentMismatch(stored.path, stored.content_id, content_id)
        check_claims(stored, sha256)
    n_learned = _learn(stored, expected, checksums, ledger)
    n_chunks = sum(len(sums) for sums in checksums.crc32c)
    return Verification(
        n_chunks=n_chunks,
        n_verified=n_chunks - n_learned,
        n_learned=n_learned,
        content_id=content_id,
    )


def _learn(
    stored: Stored,
    expected: Sequence[Sequence[int] | None],
    checksums: ChunkChecksums,
    ledger: ChecksumLedger | None,
) -> int:
    n_learned = 0
    for file, known, sums in zip(stored.files, expected, checksums.crc32c, strict=True):
        if known is None:
            n_learned += len(sums)
            if ledger is not None:
                ledger.learn(file, sums)
    return n_learned
