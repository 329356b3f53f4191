from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from pilotlight.native_loader import Checkpoint, CheckpointFile, ChecksumLedger


@pytest.fixture
def file(directory: Path) -> CheckpointFile:
    return Checkpoint.open(directory).files[0]


def test_knows_what_it_learned(tmp_path: Path, file: CheckpointFile) -> None:
    ledger = ChecksumLedger(tmp_path / "ledger")
    assert ledger.find(file) is None

    ledger.learn(file, [0xDEADBEEF])

    assert ledger.find(file) == (0xDEADBEEF,)


def test_knows_it_in_the_next_process_too(tmp_path: Path, file: CheckpointFile) -> None:
    ChecksumLedger(tmp_path).learn(file, [1])

    assert ChecksumLedger(tmp_path).find(file) == (1,)


@pytest.mark.parametrize("field", ["device", "inode", "size_bytes", "mtime_ns", "ctime_ns"])
def test_knows_nothing_of_a_file_that_changed(
    tmp_path: Path, file: CheckpointFile, field: str
) -> None:
    ledger = ChecksumLedger(tmp_path)
    ledger.learn(file, [1])

    changed = replace(file, **{field: getattr(file, field) + 1})

    assert ledger.find(changed) is None
    assert ledger.find(file) == (1,)


def test_a_newer_state_replaces_the_older_one(tmp_path: Path, file: CheckpointFile) -> None:
    newer = replace(file, mtime_ns=file.mtime_ns + 1)
    ledger = ChecksumLedger(tmp_path)
    ledger.learn(file, [1])

    ledger.learn(newer, [2])

    assert ledger.find(newer) == (2,)
    assert ledger.find(file) is None
    assert len(list(tmp_path.glob("*.json"))) == 1


@pytest.mark.parametrize("damage", [b"", b"{", b"\xff\xfe", b"[]", b'{"crc32c": [1]}', b"[" * 9999])
def test_a_damaged_entry_counts_as_not_there(
    tmp_path: Path, file: CheckpointFile, damage: bytes
) -> None:
    ChecksumLedger(tmp_path).learn(file, [1])
    [entry] = tmp_path.glob("*.json")
    entry.write_bytes(damage)

    ledger = ChecksumLedger(tmp_path)

    assert ledger.find(file) is None
    ledger.learn(file, [2])
    assert ChecksumLedger(tmp_path).find(file) == (2,)


def test_an_entry_of_the_wrong_length_counts_as_not_there(
    tmp_path: Path, file: CheckpointFile
) -> None:
    ChecksumLedger(tmp_path).learn(file, [1, 2])

    assert ChecksumLedger(tmp_path).find(file) is None


def test_forgets(tmp_path: Path, file: CheckpointFile) -> None:
    ledger = ChecksumLedger(tmp_path)
    ledger.learn(file, [1])

    ledger.forget(file)
    ledger.forget(file)

    assert ledger.find(file) is None
    assert ChecksumLedger(tmp_path).find(file) is None


def test_what_can_not_be_written_is_known_to_this_process(
    tmp_path: Path, file: CheckpointFile
) -> None:
    (tmp_path / "file").write_text("in the way")
    ledger = ChecksumLedger(tmp_path / "file" / "ledger")

    ledger.learn(file, [1])

    assert ledger.find(file) == (1,)


def test_leaves_no_temporary_files(tmp_path: Path, file: CheckpointFile) -> None:
    ChecksumLedger(tmp_path / "ledger").learn(file, [1])

    assert len(os.listdir(tmp_path / "ledger")) == 1


def test_names_that_are_no_utf8_are_fine(tmp_path: Path, file: CheckpointFile) -> None:
    odd = replace(file, path=Path(os.fsdecode(b"/models/na\xefve")))

    ChecksumLedger(tmp_path).learn(odd, [1])

    assert ChecksumLedger(tmp_path).find(odd) == (1,)


def test_what_is_no_entry_at_all_counts_as_not_there(tmp_path: Path, file: CheckpointFile) -> None:
    ChecksumLedger(tmp_path).learn(file, [1])
    [entry] = tmp_path.glob("*.json")
    entry.unlink()
    os.mkfifo(entry)

    assert ChecksumLedger(tmp_path).find(file) is None
    ChecksumLedger(tmp_path).learn(file, [2])
    assert ChecksumLedger(tmp_path).find(file) == (2,)
    os.truncate(entry, 1 << 40)
    assert ChecksumLedger(tmp_path).find(file) is None
