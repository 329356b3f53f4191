from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.scheduler.simulation.recordings import record_quick

from pilotlight.scheduler.simulation.scenarios import load_scenario

pytestmark = pytest.mark.integration

Run = Callable[..., tuple[int, str, str]]


def _record(folder: Path, *, bind_seconds: float, n_events: int | None = None) -> None:
    changes = {
        "cluster.nodes[0].times.bind_seconds": bind_seconds,
        "workload.duration_seconds": 100,
    }
    record_quick(folder / "000.jsonl", changes, n_events=n_events)


def test_writes_a_scenario_that_can_be_simulated(pilotlight: Run, tmp_path: Path) -> None:
    _record(tmp_path / "run" / "recording", bind_seconds=0.2)
    file = tmp_path / "fitted.yaml"

    code, out, error = pilotlight(
        "calibrate", str(tmp_path / "run"), "--scenario", "quick", "--write", str(file),
        "-o", "json",
    )  # fmt: skip

    rows = {row["figure"]: row for row in json.loads(out)}
    assert (code, error) == (0, "")
    assert rows["cluster.nodes.node.times.bind_seconds"]["after"] == pytest.approx(0.2, rel=0.1)
    assert load_scenario(file).cluster.nodes[0].times.bind_seconds == pytest.approx(0.2, rel=0.1)
    code, _, _ = pilotlight(
        "simulate", str(file), "--seeds", "1", "--set", "workload.duration_seconds=20"
    )
    assert code == 0


def test_says_what_it_found_in_words(pilotlight: Run, tmp_path: Path) -> None:
    _record(tmp_path / "run", bind_seconds=0.2)

    code, out, _ = pilotlight("calibrate", str(tmp_path / "run"), "--scenario", "quick")

    assert code == 0
    assert out.splitlines()[0].split() == ["FIGURE", "BEFORE", "AFTER", "MEASUREMENTS"]
    words = [line.split() for line in out.splitlines()]
    (bind,) = [line for line in words if line[0] == "cluster.nodes.node.times.bind_seconds"]
    assert bind[1] == "0.05"
    assert float(bind[2]) == pytest.approx(0.2, rel=0.1)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda folder: folder.mkdir(), "there is no recording"),
        (lambda folder: folder.write_text("x"), "not a recording"),
        (lambda folder: _record(folder, bind_seconds=0.1, n_events=9), "became READY"),
    ],
    ids=["empty", "garbage", "too short"],
)
def test_says_what_is_wrong(
    pilotlight: Run, tmp_path: Path, make: Callable[[Path], None], said: str
) -> None:
    make(tmp_path / "run")

    code, _, error = pilotlight("calibrate", str(tmp_path / "run"), "--scenario", "quick")

    assert code == 1
    assert said in error
    assert error.count("\n") == 1
