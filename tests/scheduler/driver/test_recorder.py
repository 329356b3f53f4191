from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
import structlog
from structlog.testing import capture_logs
from structlog.typing import EventDict

from pilotlight.estimators import StartEstimator
from pilotlight.scheduler.core import Core
from pilotlight.scheduler.core.actions import AnyAction
from pilotlight.scheduler.core.events import AnyEvent, ModelDeleted, TimerFired
from pilotlight.scheduler.core.recording import Header, read_recording
from pilotlight.scheduler.driver.recorder import Recorder
from pilotlight.scheduler.driver.testing import DriverCase
from pilotlight.store_node.protocol import ModelId, ReplicaState

EVENT = TimerFired(timer="restored")


def header() -> Header:
    return Header(package_version="1", policy="random", began_at=1.7e9, began_now=5.0)


def recorder_in(directory: Path, **options: int) -> Recorder:
    return Recorder(directory, header=header, **options)


def files_in(directory: Path) -> list[Path]:
    return sorted(directory.glob("*"))


def events_in(file: Path) -> list[tuple[int, AnyEvent]]:
    with file.open("rb") as lines:
        _, entries = read_recording(lines)
        return [(entry.offset, entry.event) for entry in entries]


def header_of(file: Path) -> Header:
    with file.open("rb") as lines:
        return read_recording(lines)[0]


@pytest.fixture
def logged() -> Iterator[list[EventDict]]:
    structlog.reset_defaults()
    with capture_logs() as entries:
        yield entries


@pytest.fixture
def small_disk(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Return what leaves so many bytes free for a write: as on a real disk, it is cut short.

    After it there is room again, as where somebody else has tidied up.
    """
    write = os.write

    def shrink(free_bytes: int) -> None:
        left = [free_bytes]

        def write_what_fits(descriptor: int, data: bytes) -> int:
            room = left.pop() if left else len(data)
            if not room:
                raise OSError(28, "No space left on device")
            return write(descriptor, data[:room])

        monkeypatch.setattr("pilotlight.scheduler.driver.recorder.os.write", write_what_fits)

    return shrink


def test_events_are_numbered_and_timed(tmp_path: Path) -> None:
    recorder = recorder_in(tmp_path)

    numbers = [recorder.write(5.0, EVENT), recorder.write(6.5, ModelDeleted(model=ModelId("m")))]
    recorder.close()

    [file] = files_in(tmp_path)
    with file.open("rb") as lines:
        found, entries = read_recording(lines)
        assert found == header()
        assert [(entry.offset, entry.now) for entry in entries] == [(0, 5.0), (1, 6.5)]
    assert numbers == [0, 1]


def test_nothing_is_made_before_the_first_event(tmp_path: Path) -> None:
    recorder_in(tmp_path / "recording").close()

    assert files_in(tmp_path) == []


def test_a_recording_is_nobody_elses_to_read(tmp_path: Path) -> None:
    recorder = recorder_in(tmp_path)
    recorder.write(0.0, EVENT)
    recorder.close()

    assert files_in(tmp_path)[0].stat().st_mode & 0o777 == 0o600


def test_a_full_file_is_followed_by_another_that_says_where_it_begins(tmp_path: Path) -> None:
    recorder = recorder_in(tmp_path, file_bytes=300)

    for _ in range(20):
        recorder.write(0.0, EVENT)
    recorder.close()

    files = files_in(tmp_path)
    assert len(files) > 2
    assert [offset for file in files for offset, _ in events_in(file)] == list(range(20))
    assert [header_of(file).first_offset for file in files] == [
        events_in(file)[0][0] for file in files
    ]


def test_only_the_newest_files_are_kept(tmp_path: Path) -> None:
    recorder = recorder_in(tmp_path, file_bytes=1, kept_files=3)

    for _ in range(10):
        recorder.write(0.0, EVENT)
    recorder.close()

    # A file of one byte is full after each event.
    assert [events_in(file)[0][0] for file in files_in(tmp_path)] == [7, 8, 9]


def test_other_files_stay(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    recorder = recorder_in(tmp_path, file_bytes=1, kept_files=1)

    for _ in range(3):
        recorder.write(0.0, EVENT)
    recorder.close()

    assert (tmp_path / "notes.txt").exists()


def test_a_full_disk_ends_the_recording_with_one_line_in_the_log(
    tmp_path: Path, small_disk: Callable[[int], None], logged: list[EventDict]
) -> None:
    recorder = recorder_in(tmp_path)
    recorder.write(0.0, EVENT)
    small_disk(0)

    numbers = [recorder.write(1.0, EVENT) for _ in range(3)]

    assert numbers == [1, 2, 3]
    assert logged == [
        {
            "event": "recording ended",
            "log_level": "error",
            "directory": str(tmp_path),
            "reason": "[Errno 28] No space left on device",
        }
    ]
    assert events_in(files_in(tmp_path)[0]) == [(0, EVENT)]


@pytest.mark.parametrize("free_bytes", [1, 20, 40])
def test_what_a_full_disk_cut_short_is_not_in_the_way_of_the_rest(
    tmp_path: Path,
    free_bytes: int,
    small_disk: Callable[[int], None],
    logged: list[EventDict],
) -> None:
    recorder = recorder_in(tmp_path)
    recorder.write(0.0, EVENT)
    small_disk(free_bytes)

    for _ in range(5):
        recorder.write(1.0, EVENT)

    [file] = files_in(tmp_path)
    events = events_in(file)
    assert [offset for offset, _ in events] == list(range(len(events)))
    assert [entry["event"] for entry in logged] == ["recording ended"]


def test_a_folder_that_can_t_be_made_ends_the_recording(
    tmp_path: Path, logged: list[EventDict]
) -> None:
    (tmp_path / "recording").write_text("a file")
    recorder = recorder_in(tmp_path / "recording")

    recorder.write(0.0, EVENT)
    recorder.write(0.0, EVENT)

    assert [entry["event"] for entry in logged] == ["recording ended"]


async def live(case: DriverCase) -> None:
    """Let a little of everything happen."""
    case.deploy("m")
    case.deploy("n", keep_alive_seconds=2.0)
    case.join("a", holds=["m", "n"])
    case.join("b", holds=["n"])
    case.demand("m", 2)
    case.demand("n", 1)
    await asyncio.sleep(0.1)
    for replica in case.replicas:
        case.report(replica, ReplicaState.READY)
    case.demand("n", 0)
    await asyncio.sleep(10.0)
    case.driver.post(ModelDeleted(model=ModelId("m")))
    await asyncio.sleep(1.0)


def replay(file: Path) -> list[AnyAction]:
    """Run a core over one file, and return what it asks for."""
    with file.open("rb") as lines:
        found, entries = read_recording(lines)
        estimator = StartEstimator()
        if found.lessons is not None:
            estimator.take_up(found.lessons)
        core = Core(estimator=estimator, state=found.state)
        return [action for entry in entries for action in core.handle(entry.event, entry.now)]


async def test_a_replay_of_a_run_asks_for_the_same(tmp_path: Path) -> None:
    async with DriverCase.running(tmp_path) as case:
        await live(case)

    [file] = files_in(tmp_path / "recording")

    assert len(case.handled) > 20
    assert [event for _, event in events_in(file)] == [event for event, _ in case.handled]
    assert msgspec.json.encode(replay(file)) == msgspec.json.encode(case.actions)


async def test_every_file_of_a_run_can_be_replayed_alone(tmp_path: Path) -> None:
    async with DriverCase.running(tmp_path, file_bytes=3_000) as case:
        await live(case)

    files = files_in(tmp_path / "recording")

    assert len(files) > 3
    replayed = [action for file in files for action in replay(file)]
    assert msgspec.json.encode(replayed) == msgspec.json.encode(case.actions)
