from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from pilotlight.estimators import Phase
from pilotlight.scheduler.testing.reports import GIGABYTE, copy_of, disk, outcome_of
from pilotlight.scheduler.testing.stage import Stage
from pilotlight.store_node.protocol import Channel, ReplicaState, Tier

LINK = replace(disk("link@a", bytes_per_second=1.0e9), kind="host_link")


def _start(stage: Stage, *, transfer_seconds: float) -> None:
    """Let a replica of "m" start from DRAM and end again."""
    stage.demand("m", 1)
    stage.settle()
    (send,) = stage.sends
    stage.ack(send)
    (replica,) = stage.replicas("m")
    outcome = outcome_of(
        tier=Tier.DRAM, bytes_read=0, disk_busy_seconds=0.0, transfer_seconds=transfer_seconds
    )
    stage.report(replica, ReplicaState.READY, outcome=outcome)
    stage.demand("m", 0)
    stage.report(replica, ReplicaState.STOPPED)
    stage.settle()


def _taught(stage: Stage, quantity: str) -> list[str]:
    lessons = stage.estimator.lessons()
    assert isinstance(lessons, dict)
    return list(lessons[quantity]["by_key"])


def _stage(*channels: Channel) -> Stage:
    stage = Stage()
    stage.deploy("m", size_bytes=20 * GIGABYTE)
    stage.deploy("larger", size_bytes=60 * GIGABYTE)
    held = [
        copy_of(model, in_dram=True, size_bytes=size * GIGABYTE, dram_bytes=size * GIGABYTE)
        for model, size in (("m", 20), ("larger", 60))
    ]
    stage.join("a", holds=held, channels=[disk("disk@a"), *channels])
    stage.settle()
    return stage


def _dram_seconds(stage: Stage) -> list[float]:
    snapshot = stage.core.snapshot(stage.now)
    times = stage.estimator.start_times(snapshot, np.arange(2), np.array([0]))
    seconds: list[float] = times.phase(Phase.TRANSFER)[:, 0].tolist()
    return seconds


def test_starts_from_dram_over_a_link_teach_what_the_link_carries() -> None:
    stage = _stage(LINK)

    for _ in range(5):
        _start(stage, transfer_seconds=0.8)

    assert _taught(stage, "channel") == ["link@a"]
    assert _taught(stage, "attach") == []
    # 20 GB in 0.8 s are 25 GB/s, at which 60 GB take 2.4 s.
    assert _dram_seconds(stage) == pytest.approx([0.8, 2.4], rel=0.005)


def test_starts_from_dram_without_a_link_teach_how_long_attaching_takes() -> None:
    stage = _stage()

    _start(stage, transfer_seconds=0.03)

    assert _taught(stage, "channel") == []
    assert _taught(stage, "attach") == ["a"]
    assert _dram_seconds(stage) == pytest.approx([0.03, 0.03])


def test_a_start_from_dram_that_moved_nothing_teaches_neither() -> None:
    stage = _stage(LINK)

    _start(stage, transfer_seconds=0.0)

    assert _taught(stage, "channel") == []
    assert _taught(stage, "attach") == []
