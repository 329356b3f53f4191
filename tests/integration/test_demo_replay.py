"""A scenario's requests on the demo's cluster, recorded, and a scenario fitted to that."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from tests.integration.running import PILOTLIGHT

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

ROOT = Path(__file__).parents[2]

SCENARIO = """\
based_on: demo
title: A few seconds of the demo's cluster
workload:
  duration_seconds: 6
"""


def _pilotlight(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*PILOTLIGHT, *map(str, arguments)], cwd=ROOT, text=True, capture_output=True, check=False
    )


def test_a_scenario_is_replayed_recorded_and_fitted(tmp_path: Path) -> None:
    scenario, recorded = tmp_path / "short.yaml", tmp_path / "recorded"
    scenario.write_text(SCENARIO)

    done = _pilotlight("demo", "--replay", scenario, "--seed", 3, "--record", recorded)

    assert done.returncode == 0, done.stderr
    lines = (recorded / "requests.jsonl").read_text().splitlines()
    requests = [json.loads(line) for line in lines]
    assert len(requests) > 5
    assert all(not request["error"] for request in requests)
    assert all(request["first_token_seconds"] > 0.0 for request in requests)
    # Sent when they were due, whatever became of those before.
    began_at = requests[0]["at"] - requests[0]["due_at"]
    late = [request["at"] - began_at - request["due_at"] for request in requests]
    assert max(map(abs, late)) < 1.0
    assert list((recorded / "recording").glob("*.jsonl"))

    again = _pilotlight("demo", "--replay", scenario, "--record", recorded)
    assert again.returncode == 1
    assert "is there already" in again.stderr

    fitted = tmp_path / "fitted.yaml"
    done = _pilotlight("calibrate", recorded, "--scenario", scenario, "--write", fitted)
    assert done.returncode == 0, done.stderr
    assert "warm_worker_seconds" in done.stdout
    done = _pilotlight("simulate", fitted, "--seeds", 1)
    assert done.returncode == 0, done.stderr


def test_a_scenario_of_models_that_the_demo_does_not_have_is_refused(tmp_path: Path) -> None:
    done = _pilotlight("demo", "--replay", "quick", "--record", tmp_path / "recorded")

    assert done.returncode == 1
    assert done.stderr.startswith("Error: the demo has no checkpoint of model-1; it has: gpt2-30m")
    assert done.stderr.count("\n") == 1
