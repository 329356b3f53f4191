"""The demo in its short form, and interrupted."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pilotlight.process import process_table
from pilotlight.scheduler.demo.checkpoints import RECIPES

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

ROOT = Path(__file__).parents[2]
DEMO = [sys.executable, "-P", "-m", "pilotlight.scheduler.cli", "demo", "--short"]


class Running:
    """A demo that runs, all of whose processes can be found."""

    def __init__(self, process: subprocess.Popen[str], mark: str) -> None:
        self.process = process
        self._mark = mark

    def wait_for(self, line: str) -> None:
        """Read what it prints until it says that."""
        assert self.process.stdout is not None
        for said in self.process.stdout:
            if line in said:
                return
        raise AssertionError(f"it ended before it said {line!r}")

    def left(self) -> list[int]:
        """Return its processes that still run."""
        return process_table.marked(self._mark)


@contextmanager
def running(directory: Path) -> Generator[Running]:
    mark = f"TEST_RUN={uuid.uuid4().hex}"
    with subprocess.Popen(
        [*DEMO, "--directory", directory],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"TEST_RUN": mark.partition("=")[2]},
    ) as process:
        try:
            yield Running(process, mark)
        finally:
            process.kill()


def test_the_demo_shows_starts_from_ssd_and_dram_and_leaves_nothing(tmp_path: Path) -> None:
    file = tmp_path / "figures.json"

    done = subprocess.run([*DEMO, "--json", file], cwd=ROOT, text=True, capture_output=True)

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
    with running(ROOT / ".demo") as demo:
        demo.wait_for("starting a controller")

        demo.process.send_signal(how)
        out, _ = demo.process.communicate(timeout=60)

        assert demo.process.returncode == 130
        assert "Traceback" not in out
        assert demo.left() == []


def test_a_demo_that_is_interrupted_while_it_makes_checkpoints_leaves_nothing(
    tmp_path: Path,
) -> None:
    with running(tmp_path / "demo") as demo:
        demo.wait_for("making 6 checkpoints")

        demo.process.send_signal(signal.SIGTERM)
        out, _ = demo.process.communicate(timeout=60)

        assert demo.process.returncode == 130
        assert "Traceback" not in out
        assert demo.left() == []


def test_two_demos_in_one_directory_are_one_too_many(tmp_path: Path) -> None:
    with running(tmp_path / "demo") as first:
        first.wait_for("making 6 checkpoints")

        second = subprocess.run(
            [*DEMO, "--directory", tmp_path / "demo"], capture_output=True, text=True, timeout=60
        )

    assert second.returncode == 1
    assert second.stderr.count("\n") == 1
    assert "give this one another --directory" in second.stderr


def test_figures_that_can_t_be_written_are_told_before_anything_is_measured(
    tmp_path: Path,
) -> None:
    missing = tmp_path / "missing" / "figures.json"

    done = subprocess.run(
        [*DEMO, "--directory", tmp_path / "demo", "--json", missing],
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
