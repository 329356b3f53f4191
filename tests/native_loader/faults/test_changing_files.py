from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.native_loader.faults.conftest import StuckLoad
from tests.native_loader.faults.faulty_files import FaultyFiles
from tests.native_loader.faults.waiting import wait_until_reading

from pilotlight.native_loader import (
    Checkpoint,
    ChunkPool,
    FileChanged,
    Loader,
    ReadFailed,
)
from pilotlight.native_loader.disks.disk_settings import DiskSettings
from pilotlight.native_loader.packing.pack import pack

pytestmark = pytest.mark.integration

NAME = "model.safetensors"
DEADLINE_SECONDS = 30


def shrink(file: Path) -> None:
    os.truncate(file, 100_000)


def empty(file: Path) -> None:
    os.truncate(file, 0)


def grow(file: Path) -> None:
    os.truncate(file, file.stat().st_size + 4096)


def rewrite(file: Path) -> None:
    before = file.stat()
    with file.open("r+b") as stream:
        stream.seek(5000)
        stream.write(b"changed")
    # As tools do that keep times; ctime can't be set.
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


def replace(file: Path) -> None:
    copy = file.with_name("copy")
    copy.write_bytes(file.read_bytes())
    copy.rename(file)


def delete(file: Path) -> None:
    file.unlink()


def replace_by_a_pipe(file: Path) -> None:
    file.unlink()
    os.mkfifo(file)


CHANGES = [shrink, empty, grow, rewrite, replace, delete, replace_by_a_pipe]


@pytest.fixture
def slow(pool: ChunkPool) -> Iterator[Loader]:
    """A loader that needs so many small reads that files can be changed under it."""
    settings = DiskSettings(n_readers=1, depth=1, block_bytes=8192)
    with Loader(pool, settings=settings) as loader:
        yield loader


@pytest.mark.parametrize("change", CHANGES)
def test_a_file_that_changes_while_it_is_read_fails_that_load_alone(
    pool: ChunkPool,
    slow: Loader,
    large: Checkpoint,
    sound: Checkpoint,
    change: Callable[[Path], None],
) -> None:
    chunks = pool.allocate(large.n_chunks)
    other_chunks = pool.allocate(sound.n_chunks)
    load = slow.submit(large, chunks)
    wait_until_reading(load)

    change(large.files[0].path)
    other = slow.submit(sound, other_chunks)

    with pytest.raises(FileChanged, match="has changed since its checkpoint was opened"):
        load.result(DEADLINE_SECONDS)
    other.result(DEADLINE_SECONDS)
    pool.release(chunks + other_chunks)


@pytest.mark.parametrize("change", CHANGES)
def test_a_file_that_changed_before_it_is_read_fails_that_load_alone(
    pool: ChunkPool,
    loader: Loader,
    large: Checkpoint,
    sound: Checkpoint,
    change: Callable[[Path], None],
) -> None:
    chunks = pool.allocate(large.n_chunks)
    other_chunks = pool.allocate(sound.n_chunks)
    change(large.files[0].path)

    load = loader.submit(large, chunks, use_page_cache=True)
    other = loader.submit(sound, other_chunks, use_page_cache=True)

    with pytest.raises((FileChanged, ReadFailed)):
        load.result(DEADLINE_SECONDS)
    other.result(DEADLINE_SECONDS)
    pool.release(chunks + other_chunks)


@pytest.mark.parametrize("change", [shrink, rewrite, replace])
def test_a_change_between_two_reads_is_noticed_at_the_end(
    faulty: FaultyFiles, source: Path, change: Callable[[Path], None], stuck: StuckLoad
) -> None:
    change(source / NAME)
    faulty.release()

    with pytest.raises(FileChanged):
        stuck.load.result(DEADLINE_SECONDS)


@pytest.mark.parametrize("change", CHANGES)
def test_a_source_that_changes_while_it_is_packed_leaves_nothing(
    large: Checkpoint, tmp_path: Path, change: Callable[[Path], None]
) -> None:
    (tmp_path / "packs").mkdir()
    changed: list[int] = []

    def change_once(done_bytes: int, total_bytes: int) -> None:
        if not changed:
            changed.append(done_bytes)
            change(large.files[0].path)

    with pytest.raises((FileChanged, ReadFailed)):
        pack(large, tmp_path / "packs" / "packed", progress=change_once)

    assert list((tmp_path / "packs").iterdir()) == []
