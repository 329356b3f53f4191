from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from threading import Event, Thread

import pytest

from pilotlight.native_loader import CheckpointFile
from pilotlight.native_loader.disks.disk_settings import (
    PROBED_FILE_BYTES,
    DiskSettings,
    KnownDisks,
    MeasuredDisk,
    probe_disk,
)

FAST = MeasuredDisk(
    settings=DiskSettings(n_readers=2, depth=8, block_bytes=2 << 20), bytes_per_second=7e9
)


class Probe:
    """Counts how often it is asked."""

    def __init__(self, answer: MeasuredDisk | None = FAST) -> None:
        self.answer = answer
        self.n_asked = 0

    def __call__(self, file: CheckpointFile) -> MeasuredDisk | None:
        self.n_asked += 1
        return self.answer


@pytest.fixture
def file(tmp_path: Path) -> CheckpointFile:
    """A file that is said to be large enough to be probed."""
    path = tmp_path / "weights"
    path.write_bytes(b"weights")
    status = path.stat()
    return CheckpointFile(
        path=path,
        size_bytes=PROBED_FILE_BYTES,
        data_offset=0,
        device=status.st_dev,
        inode=status.st_ino,
        mtime_ns=status.st_mtime_ns,
        ctime_ns=status.st_ctime_ns,
    )


def no_probe(file: CheckpointFile) -> MeasuredDisk | None:
    pytest.fail("probed")


def change_entry(directory: Path, change: Callable[[dict[str, object]], None]) -> None:
    [place] = directory.glob("*.json")
    entry = json.loads(place.read_text())
    change(entry)
    place.write_text(json.dumps(entry))


def test_an_unknown_disk_is_probed_once(tmp_path: Path, file: CheckpointFile) -> None:
    probe = Probe()
    disks = KnownDisks(tmp_path / "disks", probe=probe)

    assert disks.bytes_per_second([file]) is None
    assert disks.settings_for(file) == FAST.settings
    assert disks.settings_for(file) == FAST.settings

    assert probe.n_asked == 1
    assert disks.bytes_per_second([file]) == 7e9


def test_what_was_probed_is_known_in_the_next_process_too(
    tmp_path: Path, file: CheckpointFile
) -> None:
    KnownDisks(tmp_path / "disks", probe=Probe()).settings_for(file)

    disks = KnownDisks(tmp_path / "disks", probe=no_probe)

    assert disks.settings_for(file) == FAST.settings
    assert disks.bytes_per_second([file]) == 7e9


def test_a_small_file_is_read_as_usual_unless_its_disk_is_known(
    tmp_path: Path, file: CheckpointFile
) -> None:
    small = replace(file, size_bytes=PROBED_FILE_BYTES - 1)
    disks = KnownDisks(tmp_path / "disks", probe=Probe())

    assert disks.settings_for(small) == DiskSettings()
    assert not (tmp_path / "disks").exists()
    disks.settings_for(file)
    assert disks.settings_for(small) == FAST.settings


def test_a_disk_that_no_probe_can_tell_of_is_read_as_usual(
    tmp_path: Path, file: CheckpointFile
) -> None:
    disks = KnownDisks(tmp_path / "disks", probe=Probe(None))

    assert disks.settings_for(file) == DiskSettings()
    assert disks.bytes_per_second([file]) is None
    assert not (tmp_path / "disks").exists()


def test_says_when_it_was_measured(tmp_path: Path, file: CheckpointFile) -> None:
    KnownDisks(tmp_path / "disks", probe=Probe(), clock=lambda: 1234.5).settings_for(file)

    [place] = (tmp_path / "disks").glob("*.json")
    assert json.loads(place.read_bytes())["measured_at"] == 1234.5


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("version", 2),
        ("device", 12345),
        ("fsid", 12345),
        ("source", "/dev/other"),
        ("kernel", "2.6.32"),
    ],
)
def test_an_entry_of_another_disk_or_kernel_does_not_hold(
    tmp_path: Path, file: CheckpointFile, field: str, value: object
) -> None:
    KnownDisks(tmp_path / "disks", probe=Probe()).settings_for(file)
    change_entry(tmp_path / "disks", lambda entry: entry.update({field: value}))
    probe = Probe(replace(FAST, bytes_per_second=1e9))

    disks = KnownDisks(tmp_path / "disks", probe=probe)

    assert disks.bytes_per_second([file]) is None
    disks.settings_for(file)
    assert probe.n_asked == 1
    assert KnownDisks(tmp_path / "disks").bytes_per_second([file]) == 1e9


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("n_readers", 0),
        ("n_readers", 10**9),
        ("depth", 65),
        ("block_bytes", 4097),
        ("block_bytes", 1 << 40),
        ("bytes_per_second", 0.0),
        ("bytes_per_second", "fast"),
    ],
)
def test_settings_that_make_no_sense_count_as_not_there(
    tmp_path: Path, file: CheckpointFile, field: str, value: object
) -> None:
    KnownDisks(tmp_path / "disks", probe=Probe()).settings_for(file)
    change_entry(tmp_path / "disks", lambda entry: entry.update({field: value}))
    probe = Probe()

    KnownDisks(tmp_path / "disks", probe=probe).settings_for(file)

    assert probe.n_asked == 1


@pytest.mark.parametrize("damage", [b"", b"{", b"\xff\xfe", b"[]", b"{}", b"[" * 9999])
def test_a_damaged_entry_counts_as_not_there(
    tmp_path: Path, file: CheckpointFile, damage: bytes
) -> None:
    KnownDisks(tmp_path / "disks", probe=Probe()).settings_for(file)
    [place] = (tmp_path / "disks").glob("*.json")
    place.write_bytes(damage)
    probe = Probe()

    KnownDisks(tmp_path / "disks", probe=probe).settings_for(file)

    assert probe.n_asked == 1
    assert KnownDisks(tmp_path / "disks", probe=no_probe).settings_for(file) == FAST.settings


def test_what_can_not_be_written_is_known_to_this_process(
    tmp_path: Path, file: CheckpointFile
) -> None:
    (tmp_path / "file").write_text("in the way")
    probe = Probe()
    disks = KnownDisks(tmp_path / "file" / "disks", probe=probe)

    disks.settings_for(file)

    assert disks.settings_for(file) == FAST.settings
    assert probe.n_asked == 1


def test_without_a_directory_this_process_remembers(file: CheckpointFile) -> None:
    probe = Probe()
    disks = KnownDisks(probe=probe)

    disks.settings_for(file)

    assert disks.settings_for(file) == FAST.settings
    assert probe.n_asked == 1


def test_leaves_no_temporary_files(tmp_path: Path, file: CheckpointFile) -> None:
    KnownDisks(tmp_path / "disks", probe=Probe()).settings_for(file)

    assert len(os.listdir(tmp_path / "disks")) == 1


def test_a_load_that_was_faster_raises_the_limit(tmp_path: Path, file: CheckpointFile) -> None:
    disks = KnownDisks(tmp_path / "disks", probe=Probe())
    disks.settings_for(file)

    disks.raise_limit([file, file], 8e9)
    disks.raise_limit([file], 6e9)
    disks.raise_limit([file], float("inf"))

    assert disks.bytes_per_second([file]) == 8e9
    again = KnownDisks(tmp_path / "disks", probe=no_probe)
    assert again.bytes_per_second([file]) == 8e9
    assert again.settings_for(file) == FAST.settings


def test_nothing_is_learned_of_disks_that_are_not_known_or_of_several(
    tmp_path: Path, file: CheckpointFile
) -> None:
    disks = KnownDisks(tmp_path / "disks", probe=Probe())

    disks.raise_limit([file], 8e9)
    disks.raise_limit([], 8e9)

    assert disks.bytes_per_second([file]) is None
    disks.settings_for(file)
    disks.raise_limit([file, replace(file, device=file.device + 1)], 8e9)
    assert disks.bytes_per_second([file]) == 7e9


def test_the_limit_of_several_disks_is_that_of_the_one_that_takes_longest(
    tmp_path: Path, file: CheckpointFile
) -> None:
    disks = KnownDisks(probe=Probe(replace(FAST, bytes_per_second=1e9)))
    other = replace(file, device=file.device + 1, size_bytes=3 * PROBED_FILE_BYTES)
    disks.settings_for(file)
    disks.settings_for(other)

    # Four units, three of which the second disk reads at 1 GB/s.
    assert disks.bytes_per_second([file, other]) == pytest.approx(4 / 3 * 1e9)
    assert disks.bytes_per_second([]) is None


def test_a_disk_is_probed_once_by_many_threads(file: CheckpointFile) -> None:
    probe = Probe()
    disks = KnownDisks(probe=probe)
    threads = [Thread(target=disks.settings_for, args=(file,)) for _ in range(8)]

    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert probe.n_asked == 1


def test_the_probe_can_not_tell_by_a_small_file(file: CheckpointFile) -> None:
    assert probe_disk(replace(file, size_bytes=7)) is None


@pytest.mark.integration
def test_the_probe_measures_the_disk_of_a_large_file(file: CheckpointFile) -> None:
    file.path.write_bytes(bytes(32 << 20))
    status = file.path.stat()
    large = replace(
        file,
        size_bytes=status.st_size,
        mtime_ns=status.st_mtime_ns,
        ctime_ns=status.st_ctime_ns,
    )

    measured = probe_disk(large)

    assert measured is not None
    assert measured.bytes_per_second > 0
    assert measured.settings.block_bytes % 4096 == 0


def test_what_is_no_entry_at_all_counts_as_not_there(tmp_path: Path, file: CheckpointFile) -> None:
    KnownDisks(tmp_path, probe=Probe()).settings_for(file)
    [place] = tmp_path.glob("*.json")
    place.unlink()
    os.mkfifo(place)

    assert KnownDisks(tmp_path).remembered(file) is None
    assert KnownDisks(tmp_path, probe=Probe()).settings_for(file) == FAST.settings
    assert KnownDisks(tmp_path).remembered(file) == FAST.settings
    os.truncate(place, 1 << 40)
    assert KnownDisks(tmp_path).remembered(file) is None


def test_a_disk_that_does_not_answer_holds_up_no_other(file: CheckpointFile) -> None:
    other = replace(file, device=file.device + 1)
    asked, answered = Event(), Event()

    def probe(probed: CheckpointFile) -> MeasuredDisk | None:
        if probed.device == file.device:
            asked.set()
            answered.wait(60)
        return FAST

    disks = KnownDisks(probe=probe)
    waiting = Thread(target=disks.settings_for, args=(file,))
    waiting.start()
    asked.wait(60)
    beside = Thread(target=disks.settings_for, args=(other,))
    beside.start()
    beside.join(10)
    is_held_up = beside.is_alive()
    answered.set()
    waiting.join()
    beside.join()

    assert not is_held_up
