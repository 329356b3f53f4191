"""A checkpoint on a file system that fails when told to, and one beside it that does not."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.conftest import Absent
from tests.native_loader.faults.faulty_file_system import Faults
from tests.native_loader.faults.faulty_files import FaultyFiles, MountRefused

from pilotlight.native_loader import CHUNK_BYTES, Checkpoint, ChunkPool, Load, Loader
from pilotlight.native_loader.testing import random_tensor, write_checkpoint

IN_THE_MIDDLE = CHUNK_BYTES + (1 << 20) + 12345
"""A byte of the second chunk, within a block and within a page."""


@pytest.fixture
def source(tmp_path: Path, rng: random.Random) -> Path:
    """The directory that the faulty file system shows: a checkpoint of two chunks."""
    tensors = {"a": random_tensor(rng, "U8", CHUNK_BYTES + (4 << 20) + 777)}
    return write_checkpoint(tmp_path / "shown", tensors)


@pytest.fixture
def faulty(tmp_path: Path, source: Path, absent: Absent) -> Iterator[FaultyFiles]:
    try:
        mounted = FaultyFiles(source, tmp_path / "faulty")
    except MountRefused as exc:
        absent("fuse", f"no file system of our own can be mounted: {exc}")
    with closing(mounted):
        yield mounted


@pytest.fixture
def failing(faulty: FaultyFiles) -> Checkpoint:
    """The checkpoint that can fail."""
    return Checkpoint.open(faulty.directory)


@dataclass(frozen=True, slots=True, kw_only=True)
class StuckLoad:
    """A load one of whose reads does not come back before it is released."""

    load: Load
    chunks: list[int]


@pytest.fixture
def stuck(
    pool: ChunkPool, loader: Loader, faulty: FaultyFiles, failing: Checkpoint
) -> Iterator[StuckLoad]:
    """A load that is stuck in the middle; in the end its chunks can be released."""
    (file,) = failing.files
    faulty.set(file.path.name, Faults(hold_at=IN_THE_MIDDLE))
    chunks = pool.allocate(failing.n_chunks)
    load = loader.submit(failing, chunks)
    faulty.wait_until_held()
    yield StuckLoad(load=load, chunks=chunks)
    pool.release(chunks)


@pytest.fixture
def sound(directory: Path) -> Checkpoint:
    """A small checkpoint on the ordinary disk."""
    return Checkpoint.open(directory)


@pytest.fixture
def pool() -> Iterator[ChunkPool]:
    """A pool that must have all its chunks back in the end."""
    pool = ChunkPool(8 * CHUNK_BYTES)
    yield pool
    pool.check_integrity()
    accounts = pool.accounts()
    assert (accounts.free, accounts.cached, accounts.bound) == (accounts.total, 0, 0)
    pool.close()
