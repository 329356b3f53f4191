"""The demo in its short form, and interrupted."""

from __future__ import annotations

import json
import signal
import subprocess
from pathlib import Path

import pytest
from tests.integration.running import PILOTLIGHT, running

from pilotlight.scheduler.demo.checkpoints import RECIPES

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

ROOT = Path(__file__).parents[2]
DEMO = ("demo", "--short")


def test_the_demo_shows_starts_from_ssd_and_dram_and_leaves_nothing(tmp_path: Path) -> None:
    file = tmp_path / "figures.json"

    done = subprocess.run(
        [*PILOTLIGHT, *DEMO, "--json", file], cwd=ROOT, text=True, capture_output=True
    )

    assert (done.returncode, done.stderr) == (0, "")
    found = json.loads(file.read_text())
    figures = found["figures"]
    assert figures["starts_from_ssd"] >= len(RECIPES)
    assert figures["starts_from_dram"] >= 1
    assert figures["leftover_processes"] == 0
    assert min(figures[f"{name}_speedup_median"] for name in ("cold", "dram")) > 0.0
    assert {start["model"] for start in found["starts"]} == {recipe.name for recipe in RECIPES}
    for recipe in RECIPES:
        assert recipe.name in done.stdout


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_demo_leaves_nothing(how: signal.Signals) -> None:
    with running([*DEMO, "--directory", ROOT / ".demo"]) as demo:
        demo.read_until("starting a controller")

        out = demo.end(60, how)

        assert demo.process.returncode == 130
        assert "Traceback" not in out
        assert demo.left() == []


def test_a_demo_that_is_interrupted_while_it_makes_checkpoints_leaves_nothing(
    tmp_path: Path,
) -> None:
    with running([*DEMO, "--directory", tmp_path / "demo"]) as demo:
        demo.read_until("making 6 checkpoints")

        out = demo.end(60, signal.SIGTERM)

        assert demo.process.returncode == 130
        assert "Traceback" not in out
        assert demo.left() == []


def test_two_demos_in_one_directory_are_one_too_many(tmp_path: Path) -> None:
    with running([*DEMO, "--directory", tmp_path / "demo"]) as first:
        first.read_until("making 6 checkpoints")

        second = subprocess.run(
            [*PILOTLIGHT, *DEMO, "--directory", tmp_path / "demo"],
            capture_output=True,
            text=True,
            timeout=60,
        )

    assert second.returncode == 1
    assert second.stderr.count("\n") == 1
    assert "give this one another --directory" in second.stderr


def test_figures_that_can_t_be_written_are_told_before_anything_is_measured(
    tmp_path: Path,
) -> None:
    missing = tmp_path / "missing" / "figures.json"

    done = subprocess.run(
        [*PILOTLIGHT, *DEMO, "--directory", tmp_path / "demo", "--json", missing],
        capture_output=True,
        text=True,
        timeout=60,
    )

    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"Error: {missing} can't be written\n"
    assert list(tmp_path.iterdir()) == []


def test_make_demo_passes_its_arguments_on() -> None:
    done = subprocess.run(
        ["make", "--dry-run", "demo", "DEMO_ARGS=--short"], cwd=ROOT, capture_output=True, text=True
    )

    assert "pilotlight demo --short" in done.stdout
