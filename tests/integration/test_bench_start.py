"""`pilotlight bench start` in its short form, and interrupted."""

from __future__ import annotations

import json
import os
import signal
import time
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from tests.integration.running import Running, running

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a home directory, where checkpoints are made once."""
    return tmp_path_factory.mktemp("home")


def bench_of(home: Path, *arguments: str | Path, **environ: str) -> AbstractContextManager[Running]:
    command = ["bench", "start", "--short", *arguments]
    return running(command, PILOTLIGHT_HOME=str(home), **environ)


def test_a_short_bench_has_all_figures_and_leaves_nothing(home: Path, tmp_path: Path) -> None:
    file = tmp_path / "figures.json"

    with bench_of(home, "--json", file) as bench:
        out = bench.end(240)
        left = bench.left()

    assert bench.process.returncode == 0, out
    assert left == []
    assert sorted(path.name for path in (home / "bench").iterdir()) == ["checkpoints", "lock"]
    found = json.loads(file.read_text())
    assert 0.5 < found["dram_floor_ratio_median"] < 100
    assert 0.5 < found["ssd_floor_ratio_median"] < 100
    assert 0 <= found["phases_sum_error_percent_max"] < 100
    assert found["throughput_ratio_to_transformers_cb"] > 0
    assert found["outputs_unequal_float64"] == 0
    assert found["outputs_unequal_fp32_percent"] <= 1
    # Every way of starting, once, and from_pretrained beside it.
    ways = {(row["tier"], row["worker"]) for row in found["starts"]}
    assert ways == {(tier, worker) for tier in ("ssd", "dram") for worker in ("warm", "forked")}
    assert all(row["fresh_seconds"] > row["imported_seconds"] > 0 for row in found["starts"])
    assert [row["all_tokens_agree"] for row in found["parts"]] == [True]
    assert {row["concurrency"] for row in found["throughput"]} == {1, 4, 12}
    assert len({row["model"] for row in found["outputs"]}) >= 7
    for words in ("First tokens beside their floor", "Targets", "dram_floor_ratio_median"):
        assert words in out, words


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupted_bench_leaves_nothing(how: signal.Signals, home: Path) -> None:
    with bench_of(home, "--only", "starts") as bench:
        bench.wait_for(lambda: bool(list(home.glob("bench/run-*/warm-0/log"))))

        out = bench.end(60, how)

        assert bench.process.returncode == 130
        assert "Traceback" not in out
        assert bench.left() == []
        assert list(home.glob("bench/run-*")) == []


def test_an_impatient_interrupt_ends_it_as_quietly(home: Path) -> None:
    with bench_of(home, "--only", "starts") as bench:
        bench.wait_for(lambda: bool(list(home.glob("bench/run-*/warm-0/log"))))

        for _ in range(3):
            bench.process.send_signal(signal.SIGINT)
            time.sleep(0.02)
        out = bench.end(60)

        # The last one may meet an interpreter that is ending.
        assert bench.process.returncode in (130, -signal.SIGINT)
        assert "is closed" not in out
        assert bench.left() == []
        assert list(home.glob("bench/run-*")) == []


def test_what_a_killed_bench_has_left_is_gone_after_the_next(home: Path, tmp_path: Path) -> None:
    with bench_of(home, "--only", "starts", TMPDIR=str(tmp_path)) as bench:
        bench.wait_for(lambda: bool(list(home.glob("bench/run-*/warm-0/log"))))
        bench.process.kill()
        bench.process.wait()
    (stale,) = home.glob("bench/run-*")

    with bench_of(home, "--only", "starts", TMPDIR=str(tmp_path)) as bench:
        bench.wait_for(lambda: set(home.glob("bench/run-*")) not in (set(), {stale}))
        kept = stale.exists()
        bench.end(60, signal.SIGINT)

    assert not kept
    assert list(home.glob("bench/run-*")) == []
    assert list(tmp_path.glob("pilotlight-*")) == []


def test_a_node_that_dies_under_a_bench_is_told_as_such(home: Path) -> None:
    with bench_of(home, "--only", "starts", "--repetitions", "50") as bench:
        bench.wait_for(lambda: bool(bench.processes("warm-0/node.yaml")))

        os.kill(bench.processes("warm-0/node.yaml")[0], signal.SIGKILL)
        out = bench.end(60)

        assert bench.process.returncode == 1
        assert "a node has ended with exit code -9" in out.splitlines()[-1]
        assert bench.left() == []


def test_a_bench_that_is_interrupted_while_it_makes_checkpoints_leaves_nothing(
    tmp_path: Path,
) -> None:
    with bench_of(tmp_path) as bench:
        bench.wait_for(lambda: (tmp_path / "bench" / "checkpoints").is_dir())

        out = bench.end(60, signal.SIGINT)

        assert bench.process.returncode == 130
        assert "Traceback" not in out
        assert bench.left() == []


def test_weights_that_no_engine_can_run_are_one_line(home: Path, tmp_path: Path) -> None:
    folder = tmp_path / "odd"
    folder.mkdir()
    made = home / "bench" / "checkpoints" / "llama-23m"
    (folder / "model.safetensors").symlink_to(made / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"model_type": "no-such-model"}))

    with bench_of(home, "--only", "starts", "--checkpoint", folder) as bench:
        out = bench.end(120)

        assert bench.process.returncode == 1
        assert "Traceback" not in out
        assert "no-such-model" in out.splitlines()[-1]
        assert bench.left() == []


def test_weights_of_another_model_are_told_by_our_engine_before_anything_builds_it(
    home: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "odd"
    folder.mkdir()
    made = home / "bench" / "checkpoints" / "llama-23m"
    (folder / "model.safetensors").symlink_to(made / "model.safetensors")
    configuration = json.loads((made / "config.json").read_text())
    # from_pretrained says so in words of its own, once the model is built.
    configuration["intermediate_size"] += 64
    (folder / "config.json").write_text(json.dumps(configuration))

    with bench_of(home, "--only", "starts", "--checkpoint", folder) as bench:
        out = bench.end(120)

        assert bench.process.returncode == 1
        assert out.splitlines()[-1].startswith("Error: odd: forks: WeightsMismatch: ")
        assert bench.left() == []
