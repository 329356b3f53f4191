"""A simulation is recorded, and its parameters are found again in the recording."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.scheduler.simulation.recordings import record_quick

from pilotlight.estimators import StartEstimator
from pilotlight.scheduler.simulation.calibration import (
    Fitted,
    UnusableRecording,
    fit,
    observe,
)
from pilotlight.scheduler.simulation.scenarios import load_scenario

TRUTH: dict[str, Any] = {
    "delays.persist_seconds": 0.004,
    "delays.command_seconds": 0.003,
    "cluster.nodes[0].times.warm_worker_seconds": 0.3,
    "cluster.nodes[0].times.bind_seconds": 0.08,
    "cluster.nodes[0].times.teardown_seconds": 0.15,
    "cluster.nodes[0].times.report_seconds": 0.006,
    "cluster.nodes[0].times.noise": 0.1,
    "cluster.nodes[0].times.transfer_noise": 0.04,
    "cluster.nodes[0].disks[0].bytes_per_second": 0.7e9,
    "models[0].serve_times.prefill_fixed_seconds": 0.25,
    "workload.duration_seconds": 400,
}
FITTED = {
    "cluster.nodes.node.disks.disk": "cluster.nodes[0].disks[0].bytes_per_second",
    "cluster.nodes.node.times.bind_seconds": "cluster.nodes[0].times.bind_seconds",
    "cluster.nodes.node.times.teardown_seconds": "cluster.nodes[0].times.teardown_seconds",
    "cluster.nodes.node.times.warm_worker_seconds": ("cluster.nodes[0].times.warm_worker_seconds"),
    "delays.command_seconds": "delays.command_seconds",
    "delays.persist_seconds": "delays.persist_seconds",
    "models.model.serve_times.prefill_fixed_seconds": (
        "models[0].serve_times.prefill_fixed_seconds"
    ),
}
"""What the fit calls the figures that can be told to some percent."""


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> Fitted:
    file = tmp_path_factory.mktemp("recording") / "000.jsonl"
    record_quick(file, TRUTH)
    return fit(observe([file], StartEstimator()), load_scenario("quick"))


@pytest.mark.parametrize(("figure", "truth"), FITTED.items())
def test_what_a_recording_shows_is_found(fitted: Fitted, figure: str, truth: str) -> None:
    (row,) = [row for row in fitted.rows if row["figure"] == figure]

    assert row["after"] == pytest.approx(TRUTH[truth], rel=0.06)
    assert row["after"] != row["before"]
    assert row["of"] >= 10


@pytest.mark.parametrize(
    ("figure", "truth"),
    [
        ("cluster.nodes.node.times.noise", 0.1),
        ("cluster.nodes.node.times.transfer_noise", 0.04),
        ("cluster.nodes.node.times.report_seconds", 0.006),
    ],
)
def test_noise_and_delays_are_found_roughly(fitted: Fitted, figure: str, truth: float) -> None:
    (row,) = [row for row in fitted.rows if row["figure"] == figure]

    assert row["after"] == pytest.approx(truth, rel=0.35)


def test_a_fitted_scenario_is_one(fitted: Fitted, tmp_path: Path) -> None:
    import yaml

    file = tmp_path / "fitted.yaml"
    file.write_text(yaml.safe_dump({"based_on": "quick", **fitted.changes}))

    scenario = load_scenario(file)

    assert scenario.cluster.nodes[0].times.bind_seconds == pytest.approx(0.08, rel=0.06)
    assert scenario.workload == load_scenario("quick").workload


@pytest.mark.parametrize(
    ("text", "said"), [(b"", "not a recording"), (b"{}\n", "not a recording"), (None, "No such")]
)
def test_what_is_no_recording_is_named(tmp_path: Path, text: bytes | None, said: str) -> None:
    file = tmp_path / "000.jsonl"
    if text is not None:
        file.write_bytes(text)

    with pytest.raises(UnusableRecording, match=said) as caught:
        observe([file], StartEstimator())

    assert str(caught.value).startswith(str(file))


@pytest.mark.parametrize("change", ["missing", "twice", "swapped"])
def test_events_that_do_not_follow_each_other_are_refused(tmp_path: Path, change: str) -> None:
    file = tmp_path / "000.jsonl"
    record_quick(file, TRUTH, n_events=60)
    header, *events = file.read_bytes().splitlines(keepends=True)
    if change == "missing":
        del events[30]
    elif change == "twice":
        events.insert(30, events[30])
    else:
        events[30], events[31] = events[31], events[30]
    file.write_bytes(b"".join([header, *events]))

    with pytest.raises(UnusableRecording, match=r"event 3[01] is missing"):
        observe([file], StartEstimator())
