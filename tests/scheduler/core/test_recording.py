from __future__ import annotations

import json

import msgspec
import pytest

from pilotlight.estimators import StartEstimator
from pilotlight.scheduler.core.actions import AnyAction
from pilotlight.scheduler.core.core import Core
from pilotlight.scheduler.core.events import AnyEvent, TimerFired
from pilotlight.scheduler.core.recording import (
    FORMAT_VERSION,
    Entry,
    Header,
    encode_entry,
    encode_header,
    read_recording,
)
from pilotlight.scheduler.testing.stage import Stage
from pilotlight.store_node.protocol import ReplicaState

HEADER = Header(package_version="1", policy="serverlessllm", began_at=1.7e9, began_now=0.0)


def _story() -> Stage:
    """Return a stage on which a little of everything has happened."""
    stage = Stage()
    stage.deploy("m", engine_options={"threads": "2"})
    stage.deploy("n", keep_alive_seconds=None)
    stage.join("a", devices=1, holds=["m", "n"])
    stage.join("b", devices=1, holds=["n"])
    stage.settle()
    replica = stage.bring_up("m")
    stage.demand("n", 1)
    stage.settle()
    stage.refuse(stage.sends[0])
    stage.pass_time(1.0)
    stage.settle()
    stage.disconnect("b", may_return=True)
    stage.traffic(replica, running=0, idle_seconds=3.0)
    stage.settle()
    stage.pass_time(70.0)
    stage.settle()
    stage.report(replica, ReplicaState.STOPPED)
    stage.delete("n")
    return stage


def _lines(events: list[tuple[float, AnyEvent]], header: Header = HEADER) -> list[bytes]:
    entries = [encode_entry(offset, now, event) for offset, (now, event) in enumerate(events)]
    return [encode_header(header), *entries]


def _replayed(core: Core, lines: list[bytes]) -> list[AnyAction]:
    _, entries = read_recording(lines)
    return [action for entry in entries for action in core.handle(entry.event, entry.now)]


def test_what_was_written_is_what_is_read() -> None:
    stage = _story()

    header, entries = read_recording(_lines(stage.events))

    assert header == HEADER
    assert list(entries) == [
        Entry(offset, now, event) for offset, (now, event) in enumerate(stage.events)
    ]


def test_a_replay_gives_the_same_actions_and_ends_in_the_same_state() -> None:
    stage = _story()
    core = Core(estimator=StartEstimator())

    actions = _replayed(core, _lines(stage.events))

    assert msgspec.json.encode(actions) == msgspec.json.encode(stage.actions)
    assert msgspec.json.encode(core.state) == msgspec.json.encode(stage.core.state)
    assert core.estimator.lessons() == stage.estimator.lessons()


@pytest.mark.parametrize("share", [0.1, 0.3, 0.5, 0.7, 0.9])
def test_a_replay_may_begin_at_a_checkpoint(share: float) -> None:
    stage = _story()
    cut = int(len(stage.events) * share)
    first, rest = stage.events[:cut], stage.events[cut:]
    before = Core(estimator=StartEstimator())
    for now, event in first:
        before.handle(event, now)
    checkpoint = msgspec.structs.replace(
        HEADER, state=before.state, lessons=before.estimator.lessons(), first_offset=cut
    )
    lines = _lines(rest, checkpoint)
    expected = [action for now, event in rest for action in before.handle(event, now)]

    header, entries = read_recording(lines)
    estimator = StartEstimator()
    estimator.take_up(header.lessons)
    after = Core(estimator=estimator, state=header.state)
    actions = [action for entry in entries for action in after.handle(entry.event, entry.now)]

    assert msgspec.json.encode(actions) == msgspec.json.encode(expected)
    assert msgspec.json.encode(after.state) == msgspec.json.encode(before.state)


def test_a_line_that_a_crash_cut_short_ends_the_recording() -> None:
    lines = _lines([(0.0, TimerFired(timer="replan")), (1.0, TimerFired(timer="insist"))])
    lines[-1] = lines[-1][: len(lines[-1]) // 2]

    _, entries = read_recording(lines)

    assert [entry.event for entry in entries] == [TimerFired(timer="replan")]


@pytest.mark.parametrize("line", [b"", b"\n", b"hello\n", b'{"some": "json"}\n', b"[0, 1, 2]\n"])
def test_what_is_no_recording_is_said_to_be_none(line: bytes) -> None:
    with pytest.raises(ValueError, match="not a recording"):
        read_recording([line])


def test_a_recording_of_a_later_format_is_refused() -> None:
    later = json.loads(encode_header(HEADER)) | {"pilotlight_recording": FORMAT_VERSION + 1}

    with pytest.raises(ValueError, match="recording format 2 is not known here"):
        read_recording([json.dumps(later).encode() + b"\n"])


def test_each_event_is_one_line() -> None:
    lines = _lines(_story().events)

    assert all(line.count(b"\n") == 1 and line.endswith(b"\n") for line in lines)
