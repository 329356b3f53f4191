"""What a load reads and where that goes, as the native loader wants it."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from pilotlight.native_loader.errors import LayoutMismatch
from pilotlight.native_loader.formats.checkpoint import Checkpoint
from pilotlight.native_loader.formats.ledger import ChecksumLedger
from pilotlight.native_loader.formats.parts import CheckpointFile, Place
from pilotlight.native_loader.formats.verification import known_checksums
from pilotlight.native_loader.placements.chunk_copies import ChunkCopy

FileTuple = tuple[bytes, int, int, int, int, int]
ChunkTuple = tuple[int, int, int, int, int, int, bool, bool, int | None]
CopyTuple = tuple[int, int, int, int, int, int, int, int]

_MOST_CHUNKS = 2**32
"""Of a pool."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadPlan:
    """A load before it begins."""

    files: list[FileTuple]
    chunks: list[ChunkTuple]
    copies: list[CopyTuple]
    staging: list[int]
    read: tuple[int, ...]
    """Which of the plan's chunks are read, and not resident."""
    numbers: tuple[int, ...]
    """Of each chunk of the plan: which of the checkpoint's it is."""
    unknown: tuple[int, ...]
    """Numbers of the files that are read and have no known checksums."""


def plan_load(
    checkpoint: Checkpoint,
    places: Sequence[int | Place],
    *,
    ledger: ChecksumLedger | None,
    chunk_bytes: int,
    resident: Collection[int] = (),
    copies: Sequence[ChunkCopy] = (),
) -> LoadPlan:
    """Plan to read a checkpoint's chunk i into `places[i]`, unless it is resident there.

    Raises:
        LayoutMismatch: the places can't hold the checkpoint, or it has no chunk that is
            said to be resident.
    """
    check_places(checkpoint, places, chunk_bytes)
    for number in resident:
        if not 0 <= number < checkpoint.n_chunks:
            raise LayoutMismatch(f"{checkpoint.path} has no chunk {number} that can be resident")
    return _plan(
        checkpoint,
        {number: _target(place) for number, place in enumerate(places)},
        ledger=ledger,
        resident=frozenset(resident),
        copies=copies,
        staging=[],
    )


def plan_stream(
    checkpoint: Checkpoint,
    staging: Sequence[int],
    *,
    ledger: ChecksumLedger | None,
    chunk_bytes: int,
    copies: Sequence[ChunkCopy],
) -> LoadPlan:
    """Plan to read the chunks that are copied somewhere, by way of a few chunks of the pool.

    Raises:
        LayoutMismatch: there is no staging, its chunks are too small, or they can be in no pool.
    """
    if not staging:
        raise LayoutMismatch(f"{checkpoint.path} can't pass through no chunks")
    for number in staging:
        _check_number(number)
    check_length(checkpoint, chunk_bytes)
    return _plan(
        checkpoint,
        {copy.chunk: (0, 0, False) for copy in copies},
        ledger=ledger,
        resident=frozenset(),
        copies=copies,
        staging=list(staging),
    )


def check_places(checkpoint: Checkpoint, places: Sequence[int | Place], chunk_bytes: int) -> None:
    """Check that places in a pool can hold a checkpoint's chunks.

    Raises:
        LayoutMismatch: they can't.
    """
    if len(places) != checkpoint.n_chunks:
        raise LayoutMismatch(
            f"{checkpoint.path} has {checkpoint.n_chunks} chunks, and {len(places)} were given"
        )
    check_length(checkpoint, chunk_bytes)
    for chunk, place in zip(checkpoint.chunks, places, strict=True):
        number, offset, _ = _target(place)
        _check_number(number)
        if offset < 0 or offset + chunk.length > chunk_bytes:
            raise LayoutMismatch(
                f"{chunk.length:,d} bytes do not fit at byte {offset:,d} of a pool's chunk"
                f" of {chunk_bytes:,d} bytes"
            )


def _check_number(number: int) -> None:
    if not 0 <= number < _MOST_CHUNKS:
        raise LayoutMismatch(f"no pool has a chunk {number}")


def check_length(checkpoint: Checkpoint, chunk_bytes: int) -> None:
    """Check that a pool's chunks are large enough for a checkpoint's.

    Raises:
        LayoutMismatch: they aren't.
    """
    longest = max((chunk.length for chunk in checkpoint.chunks), default=0)
    if longest > chunk_bytes:
        raise LayoutMismatch(
            f"a chunk of {longest:,d} bytes does not fit a pool's chunk of {chunk_bytes:,d} bytes"
        )


_Target = tuple[int, int, bool]
"""Chunk of the pool, offset in it, whether it is shared."""


def _target(place: int | Place) -> _Target:
    return (place.chunk, place.offset, True) if isinstance(place, Place) else (place, 0, False)


def _plan(
    checkpoint: Checkpoint,
    targets: dict[int, _Target],
    *,
    ledger: ChecksumLedger | None,
    resident: frozenset[int],
    copies: Sequence[ChunkCopy],
    staging: list[int],
) -> LoadPlan:
    known = known_checksums(checkpoint, ledger)
    numbers = tuple(sorted(targets))
    chunks: list[ChunkTuple] = []
    for number in numbers:
        chunk = checkpoint.chunks[number]
        sums = known[chunk.file]
        expected = None if sums is None else sums[chunk.number]
        is_resident = number in resident
        chunks.append(
            (
                chunk.file,
                chunk.offset,
                chunk.length,
                chunk.number,
                *targets[number],
                is_resident,
                expected,
            )
        )
    read = tuple(i for i, number in enumerate(numbers) if number not in resident)
    files = {checkpoint.chunks[numbers[i]].file for i in read}
    return LoadPlan(
        files=[_file_tuple(file) for file in checkpoint.files],
        chunks=chunks,
        copies=_copy_tuples(numbers, copies),
        staging=staging,
        read=read,
        numbers=numbers,
        unknown=tuple(file for file in sorted(files) if known[file] is None),
    )


def _copy_tuples(numbers: Sequence[int], copies: Sequence[ChunkCopy]) -> list[CopyTuple]:
    place = {number: i for i, number in enumerate(numbers)}
    return [
        (
            place[copy.chunk],
            copy.partition,
            copy.from_,
            copy.to,
            copy.length,
            copy.n_rows,
            copy.from_stride,
            copy.to_stride,
        )
        for copy in copies
    ]


def _file_tuple(file: CheckpointFile) -> FileTuple:
    return (
        os.fsencode(file.path),
        file.device,
        file.inode,
        file.size_bytes,
        file.mtime_ns,
        file.ctime_ns,
    )
