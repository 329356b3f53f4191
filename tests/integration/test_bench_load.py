"""`pilotlight bench load` in its short form, and interrupted."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pilotlight.process import process_table

pytestmark = [pytest.mark.integration, pytest.mark.timeout(400)]

BENCH = [sys.executable, "-P", "-m", "pilotlight.scheduler.cli", "bench", "load", "--short"]
WAIT_SECONDS = 60.0
SHORT_SECONDS = 360.0
"""It takes about one minute on an idle machine."""

SAFETENSORS_LAYOUTS = {"single", "sharded", "packed"}


class Running:
    """A bench that runs, all of whose processes can be found."""

    def __init__(self, process: subprocess.Popen[str], mark: str) -> None:
        self.process = process
        self._mark = mark

    def wait_for(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + WAIT_SECONDS
        while not condition():
            assert self.process.poll() is None, "it has ended"
            assert time.monotonic() < deadline, "it is not so far"
            time.sleep(0.02)

    def left(self) -> list[int]:
        """Return its processes that still run."""
        return process_table.marked(self._mark)

    def loads(self) -> bool:
        """Whether one of its processes is there to load."""
        return any(
            b"our_load" in Path(f"/proc/{pid}/cmdline").read_bytes()
            for pid in self.left()
            if pid != self.process.pid
        )


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a home directory, where checkpoints are made once."""
    return tmp_path_factory.mktemp("home")


@contextmanager
def running(home: Path, *arguments: str) -> Generator[Running]:
    mark = f"TEST_RUN={uuid.uuid4().hex}"
    with subprocess.Popen(
        [*BENCH, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"PILOTLIGHT_HOME": str(home), "TEST_RUN": mark.partition("=")[2]},
    ) as process:
        try:
            yield Running(process, mark)
        finally:
            process.kill()


def test_a_short_bench_has_all_figures_and_leaves_nothing(home: Path, tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    charts = tmp_path / "charts"

    with running(home, "--ablation", "--json", str(file), "--plot", str(charts)) as bench:
        out, _ = bench.process.communicate(timeout=SHORT_SECONDS)
        left = bench.left()

    assert bench.process.returncode == 0, out
    assert left == []
    assert sorted(path.name for path in (home / "bench").iterdir()) == [
        "checkpoints",
        "lock",
        "tools",
    ]
    assert list((home / "bench").rglob("*.partial*")) == []
    found = json.loads(file.read_text())
    assert 0.05 < found["cold_pool_ratio_to_limit"] < 2
    assert 0.05 < found["cold_fresh_ratio_to_limit"] < 2
    assert found["speedup_over_best_peer_cold"] > 0
    assert 0 < found["dram_attach_seconds"] < 1
    assert found["dram_touch_ratio_to_safetensors_hot"] > 0
    assert 0 < found["lora_batch_ratio_to_limit"] < 2
    assert 0 < found["lora_single_ratio_to_limit"] < 2
    assert 1 <= found["tensor_parallel_disk_ratio_max"] <= 1.01
    # It installs nothing; these come with what the tests need.
    assert found["peers_measured"] == 3
    assert set(found["peers"]) >= {"torch", "safetensors", "transformers"}
    assert any("fastsafetensors is missing" in note for note in found["notes"])
    # Ours was measured on every layout, and the limit beside it.
    ways = {(row["layout"], row["loader"]) for row in found["cold"]}
    assert ways >= {(at, who) for at in SAFETENSORS_LAYOUTS for who in ("pool", "fresh")}
    assert {row["layout"] for row in found["cold"] if row["is_limit"]} == SAFETENSORS_LAYOUTS
    assert len(found["ablation"]) == 6
    for run in found["runs"]:
        is_cold = run["part"] in ("cold", "adapters", "slices", "ablation")
        assert (run["bytes_read"] > 0.9 * run["size_bytes"]) is is_cold
    assert {path.name for path in charts.iterdir()} == {
        "cold-llama-40mb.svg",
        "hot-llama-40mb.svg",
        "adapters-adapters-1mb.svg",
        "ablation-llama-40mb.svg",
    }
    for words in ("Cold: from the disk", "Targets", "cold_pool_ratio_to_limit", "pilotlight, pool"):
        assert words in out, words


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_bench_leaves_nothing(how: signal.Signals, home: Path) -> None:
    with running(home, "--only", "cold") as bench:
        bench.wait_for(bench.loads)

        bench.process.send_signal(how)
        out, _ = bench.process.communicate(timeout=60)

        assert bench.process.returncode == 130
        assert "Traceback" not in out
        assert bench.left() == []


def test_a_bench_that_is_interrupted_while_it_makes_checkpoints_leaves_nothing(
    tmp_path: Path,
) -> None:
    with running(tmp_path) as bench:
        bench.wait_for((tmp_path / "bench" / "checkpoints" / ".partial").is_dir)

        bench.process.send_signal(signal.SIGINT)
        out, _ = bench.process.communicate(timeout=60)

        assert bench.process.returncode == 130
        assert "Traceback" not in out
        assert bench.left() == []
        assert not (tmp_path / "bench" / "checkpoints" / ".partial").exists()


def test_nothing_is_kept_where_that_is_asked_for(tmp_path: Path) -> None:
    (tmp_path / "bench" / "checkpoints" / "mine").mkdir(parents=True)

    with running(tmp_path, "--only", "dram", "--no-keep") as bench:
        out, _ = bench.process.communicate(timeout=SHORT_SECONDS)

    assert bench.process.returncode == 0, out
    left = {str(path.relative_to(tmp_path / "bench")) for path in (tmp_path / "bench").rglob("*")}
    assert left == {"lock", "checkpoints", "checkpoints/mine"}
