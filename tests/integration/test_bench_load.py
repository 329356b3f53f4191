"""`pilotlight bench load` in its short form, and interrupted."""

from __future__ import annotations

import json
import signal
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from tests.integration.running import Running, running

pytestmark = [pytest.mark.integration, pytest.mark.timeout(400)]

SHORT_SECONDS = 360.0
"""It takes about one minute on an idle machine."""

SAFETENSORS_LAYOUTS = {"single", "sharded", "packed"}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a home directory, where checkpoints are made once."""
    return tmp_path_factory.mktemp("home")


def bench_of(home: Path, *arguments: str | Path) -> AbstractContextManager[Running]:
    return running(["bench", "load", "--short", *arguments], PILOTLIGHT_HOME=str(home))


def test_a_short_bench_has_all_figures_and_leaves_nothing(home: Path, tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    charts = tmp_path / "charts"

    with bench_of(home, "--ablation", "--json", file, "--plot", charts) as bench:
        out = bench.end(SHORT_SECONDS)
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
    with bench_of(home, "--only", "cold") as bench:
        bench.wait_for(lambda: bool(bench.processes("our_load")))

        out = bench.end(60, how)

        assert bench.process.returncode == 130
        assert "Traceback" not in out
        assert bench.left() == []


def test_a_bench_that_is_interrupted_while_it_makes_checkpoints_leaves_nothing(
    tmp_path: Path,
) -> None:
    with bench_of(tmp_path) as bench:
        bench.wait_for((tmp_path / "bench" / "checkpoints" / ".partial").is_dir)

        out = bench.end(60, signal.SIGINT)

        assert bench.process.returncode == 130
        assert "Traceback" not in out
        assert bench.left() == []
        assert not (tmp_path / "bench" / "checkpoints" / ".partial").exists()


def test_nothing_is_kept_where_that_is_asked_for(tmp_path: Path) -> None:
    (tmp_path / "bench" / "checkpoints" / "mine").mkdir(parents=True)

    with bench_of(tmp_path, "--only", "dram", "--no-keep") as bench:
        out = bench.end(SHORT_SECONDS)

    assert bench.process.returncode == 0, out
    left = {str(path.relative_to(tmp_path / "bench")) for path in (tmp_path / "bench").rglob("*")}
    assert left == {"lock", "checkpoints", "checkpoints/mine"}
