"""`pilotlight bench`, up to where it begins to measure."""

from __future__ import annotations

import fcntl
import random
import sys
from collections.abc import Callable
from importlib.metadata import EntryPoint
from pathlib import Path
from types import ModuleType
from typing import Any

import click
import pytest

from pilotlight.native_loader.testing import random_tensor, write_checkpoint
from pilotlight.scheduler.cli import verbs

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PILOTLIGHT_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def test_help_lists_what_can_be_measured_with_a_line_each(pilotlight: Run) -> None:
    code, out, _ = pilotlight("bench", "--help")

    assert code == 0
    assert "pilotlight bench start --short" in out
    assert any(line.startswith("  start ") and "cold starts" in line for line in out.splitlines())
    assert "pilotlight bench load --short" in out
    assert any(line.startswith("  load ") and "other loaders" in line for line in out.splitlines())


def test_every_bench_says_what_it_measures(pilotlight: Run) -> None:
    for name in verbs.find_benches():
        code, out, _ = pilotlight("bench", name, "--help")

        assert code == 0
        assert out.startswith(f"Usage: pilotlight bench {name}")


def test_the_help_of_starts_teaches(pilotlight: Run) -> None:
    _, out, _ = pilotlight("bench", "start", "--help")

    for words in ("--json", "--short", "--only", "ten minutes", "from_pretrained", "floor"):
        assert words in out, words


def test_a_misspelt_bench_is_told_the_nearest(pilotlight: Run) -> None:
    code, _, err = pilotlight("bench", "stat")

    assert code == 2
    assert "No such command 'stat'. Did you mean 'start'?" in err


def test_a_bench_that_can_t_be_loaded_is_told_in_its_place(
    pilotlight: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = EntryPoint("broken", "no_such_module:bench", verbs.BENCH_GROUP)
    points = {**verbs.find_benches(), "broken": broken}
    monkeypatch.setattr(verbs, "find_benches", lambda: points)

    code, out, _ = pilotlight("bench", "--help")

    assert code == 0
    assert "can't be loaded: ModuleNotFoundError" in " ".join(out.split())
    assert "  start " in out


def test_a_bench_may_be_a_third_party_s(pilotlight: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    @click.command()
    def disk() -> None:
        """Measure a disk."""
        click.echo("fast enough")

    module: Any = ModuleType("third_party")
    module.disk = disk
    monkeypatch.setitem(sys.modules, "third_party", module)
    point = EntryPoint("disk", "third_party:disk", verbs.BENCH_GROUP)
    monkeypatch.setattr(verbs, "find_benches", lambda: {"disk": point})

    assert pilotlight("bench", "disk") == (0, "fast enough\n", "")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--repetitions", "0"], "0 is not in the range x>=1"),
        (["--threads", "0"], "0 is not in the range 1<=x<="),
        (["--threads", "100000"], "100000 is not in the range 1<=x<="),
        (
            ["--only", "equality", "--checkpoint", "a-directory"],
            "--checkpoint is for starts and throughput: equality makes models of its own",
        ),
        (["--only", "everything"], "'everything' is not one of"),
        (["a-directory"], "unexpected extra argument"),
    ],
)
def test_wrong_usage_is_told(arguments: list[str], words: str, pilotlight: Run) -> None:
    code, out, err = pilotlight("bench", "start", *arguments)

    assert (code, out) == (2, "")
    assert words in err


def test_figures_that_can_t_be_written_are_told_before_anything_is_measured(
    pilotlight: Run, tmp_path: Path, home: Path
) -> None:
    file = tmp_path / "missing" / "figures.json"

    code, out, err = pilotlight("bench", "start", "--json", str(file))

    assert (code, out) == (1, "")
    assert err == f"Error: {file} can't be written: No such file or directory\n"
    assert not home.exists()


def test_a_directory_that_is_no_checkpoint_is_told(pilotlight: Run, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()

    for name in ("empty", "missing"):
        code, out, err = pilotlight("bench", "start", "--checkpoint", str(tmp_path / name))

        assert (code, out) == (1, "")
        assert err.startswith("Error: ")
        assert name in err
        assert err.count("\n") == 1


def test_weights_without_a_configuration_are_told(pilotlight: Run, tmp_path: Path) -> None:
    folder = write_checkpoint(
        tmp_path / "bare", {"weight": random_tensor(random.Random(0), "F32", 8)}
    )

    code, _, err = pilotlight("bench", "start", "--checkpoint", str(folder))

    assert (code, err) == (1, f"Error: {folder} has no config.json: no engine can run it\n")


def test_two_checkpoints_of_one_name_are_told(pilotlight: Run, tmp_path: Path) -> None:
    arguments: list[str] = []
    for parent in ("a", "b"):
        weights = {"weight": random_tensor(random.Random(0), "F32", 8)}
        arguments += ["--checkpoint", str(write_checkpoint(tmp_path / parent / "same", weights))]

    code, _, err = pilotlight("bench", "start", *arguments)

    assert (code, err) == (1, "Error: two of the checkpoints have the same name\n")


def test_two_benches_at_once_are_one_too_many(pilotlight: Run, home: Path) -> None:
    (home / "bench").mkdir(parents=True)
    with (home / "bench" / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)

        code, out, err = pilotlight("bench", "start", "--short")

    assert (code, out) == (1, "")
    assert err.startswith(f"Error: a bench runs in {home / 'bench'}")
    assert err.count("\n") == 1
