"""`pilotlight bench start` in its short form, and interrupted."""

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

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

BENCH = [sys.executable, "-P", "-m", "pilotlight.scheduler.cli", "bench", "start", "--short"]
WAIT_SECONDS = 60.0


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


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a home directory, where checkpoints are made once."""
    return tmp_path_factory.mktemp("home")


@contextmanager
def running(home: Path, *arguments: str, temporary: Path | None = None) -> Generator[Running]:
    mark = f"TEST_RUN={uuid.uuid4().hex}"
    with subprocess.Popen(
        [*BENCH, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ
        | {"PILOTLIGHT_HOME": str(home), "TEST_RUN": mark.partition("=")[2]}
        | ({} if temporary is None else {"TMPDIR": str(temporary)}),
    ) as process:
        try:
            yield Running(process, mark)
        finally:
            process.kill()


def test_a_short_bench_has_all_figures_and_leaves_nothing(home: Path, tmp_path: Path) -> None:
    file = tmp_path / "figures.json"

    with running(home, "--json", str(file)) as bench:
        out, _ = bench.process.communicate(timeout=240)
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
    with running(home, "--only", "starts") as bench:
        bench.wait_for(lambda: bool(list(home.glob("bench/run-*/warm-0/log"))))

        bench.process.send_signal(how)
        out, _ = bench.process.communicate(timeout=60)

        assert bench.process.returncode == 130
        assert "Traceback" not in out
        assert bench.left() == []
        assert list(home.glob("bench/run-*")) == []


def test_an_impatient_interrupt_ends_it_as_quietly(home: Path) -> None:
    with running(home, "--only", "starts") as bench:
        bench.wait_for(lambda: bool(list(home.glob("bench/run-*/warm-0/log"))))

        for _ in range(3):
            bench.process.send_signal(signal.SIGINT)
            time.sleep(0.02)
        out, _ = bench.process.communicate(timeout=60)

        # The last one may meet an interpreter that is ending.
        assert bench.process.returncode in (130, -signal.SIGINT)
        assert "is closed" not in out
        assert bench.left() == []
        assert list(home.glob("bench/run-*")) == []


def test_what_a_killed_bench_has_left_is_gone_after_the_next(home: Path, tmp_path: Path) -> None:
    with running(home, "--only", "starts", temporary=tmp_path) as bench:
        bench.wait_for(lambda: bool(list(home.glob("bench/run-*/warm-0/log"))))
        bench.process.kill()
        bench.process.wait()
    (stale,) = home.glob("bench/run-*")

    with running(home, "--only", "starts", temporary=tmp_path) as bench:
        bench.wait_for(lambda: set(home.glob("bench/run-*")) not in (set(), {stale}))
        kept = stale.exists()
        bench.process.send_signal(signal.SIGINT)
        bench.process.communicate(timeout=60)

    assert not kept
    assert list(home.glob("bench/run-*")) == []
    assert list(tmp_path.glob("pilotlight-*")) == []


def test_a_node_that_dies_under_a_bench_is_told_as_such(home: Path) -> None:
    with running(home, "--only", "starts", "--repetitions", "50") as bench:
        bench.wait_for(lambda: bool(nodes_of(bench)))

        os.kill(nodes_of(bench)[0], signal.SIGKILL)
        out, _ = bench.process.communicate(timeout=60)

        assert bench.process.returncode == 1
        assert "a node has ended with exit code -9" in out.splitlines()[-1]
        assert bench.left() == []


def nodes_of(bench: Running) -> list[int]:
    mark = b"warm-0/node.yaml"
    return [pid for pid in bench.left() if mark in Path(f"/proc/{pid}/cmdline").read_bytes()]


def test_a_bench_that_is_interrupted_while_it_makes_checkpoints_leaves_nothing(
    tmp_path: Path,
) -> None:
    with running(tmp_path) as bench:
        bench.wait_for(lambda: (tmp_path / "bench" / "checkpoints").is_dir())

        bench.process.send_signal(signal.SIGINT)
        out, _ = bench.process.communicate(timeout=60)

        assert bench.process.returncode == 130
        assert "Traceback" not in out
        assert bench.left() == []


def test_weights_that_no_engine_can_run_are_one_line(home: Path, tmp_path: Path) -> None:
    folder = tmp_path / "odd"
    folder.mkdir()
    made = home / "bench" / "checkpoints" / "llama-23m"
    (folder / "model.safetensors").symlink_to(made / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"model_type": "no-such-model"}))

    with running(home, "--only", "starts", "--checkpoint", str(folder)) as bench:
        out, _ = bench.process.communicate(timeout=120)

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

    with running(home, "--only", "starts", "--checkpoint", str(folder)) as bench:
        out, _ = bench.process.communicate(timeout=120)

        assert bench.process.returncode == 1
        assert out.splitlines()[-1].startswith("Error: odd: forks: WeightsMismatch: ")
        assert bench.left() == []
