from __future__ import annotations

import random
from pathlib import Path

import pytest

from pilotlight.native_loader import Checkpoint, ChunkPool, Loader
from pilotlight.native_loader.disks.disk_settings import DiskSettings, KnownDisks, MeasuredDisk
from pilotlight.native_loader.disks.loader_disks import LoaderDisks
from pilotlight.native_loader.formats.parts import CheckpointFile
from pilotlight.native_loader.testing import random_tensor, write_checkpoint

MEASURED = MeasuredDisk(
    settings=DiskSettings(n_readers=2, depth=4, block_bytes=1 << 19), bytes_per_second=3e9
)


class Probe:
    """Answers for every disk, and notes which files it was asked for."""

    def __init__(self, answer: MeasuredDisk | None = MEASURED) -> None:
        self.asked: list[CheckpointFile] = []
        self._answer = answer

    def __call__(self, file: CheckpointFile) -> MeasuredDisk | None:
        self.asked.append(file)
        return self._answer


@pytest.fixture
def checkpoint(tmp_path: Path, rng: random.Random) -> Checkpoint:
    return Checkpoint.open(write_checkpoint(tmp_path / "c", {"a": random_tensor(rng, "U8", 9)}))


def disks(pool: ChunkPool, known: KnownDisks | None) -> LoaderDisks:
    from pilotlight.native_loader import _native

    native = _native.Loader(pool.native, 4, 1, 1 << 20)
    return LoaderDisks(native, usual=DiskSettings(), known=known)


def large(file: CheckpointFile, size_bytes: int = 1 << 30) -> CheckpointFile:
    """Return a file as large as those that are worth a probe."""
    return CheckpointFile(
        path=file.path,
        size_bytes=size_bytes,
        data_offset=file.data_offset,
        device=file.device,
        inode=file.inode,
        mtime_ns=file.mtime_ns,
        ctime_ns=file.ctime_ns,
    )


def test_probes_an_unknown_disk_once_by_its_largest_file(
    pool: ChunkPool, checkpoint: Checkpoint
) -> None:
    probe = Probe()
    found = disks(pool, KnownDisks(probe=probe))
    files = [large(checkpoint.files[0]), large(checkpoint.files[0], 2 << 30)]

    found.prepare(files)
    found.prepare(files)

    assert probe.asked == files[1:]
    assert found.n_readers(files) == 2
    assert found.bytes_per_second(files) == pytest.approx(3e9)


def test_reads_as_usual_what_was_not_prepared(pool: ChunkPool, checkpoint: Checkpoint) -> None:
    probe = Probe()
    found = disks(pool, KnownDisks(probe=probe))

    found.use(checkpoint.files)
    found.prepare([large(checkpoint.files[0])])

    assert probe.asked == []
    assert found.n_readers(checkpoint.files) == DiskSettings().n_readers
    assert disks(pool, None).bytes_per_second(checkpoint.files) is None


def test_a_loader_reads_as_the_probe_says(
    pool: ChunkPool, checkpoint: Checkpoint, tmp_path: Path
) -> None:
    known = KnownDisks(tmp_path / "disks", probe=Probe())
    known.settings_for(large(checkpoint.files[0]))
    with Loader(pool, disks=known) as loader:
        loader.prepare(checkpoint)
        chunks = pool.allocate(checkpoint.n_chunks)

        result = loader.submit(checkpoint, chunks).result(30)

    assert result.bytes_read == checkpoint.size_bytes
    assert not result.bottleneck.startswith("disk-bound") or " of 3" in result.bottleneck
