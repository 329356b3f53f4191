"""`pilotlight bench load`, up to where it begins to measure."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from click.testing import CliRunner

from pilotlight.native_loader.bench import bench, command
from pilotlight.native_loader.bench.bench import Plan, run_bench
from pilotlight.native_loader.bench.command import PARTS, USUAL_PARTS
from pilotlight.process.bench.errors import BenchFailed


class Usage(NamedTuple):
    total: int
    used: int
    free: int


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    return Plan(
        home=tmp_path,
        parts=("cold",),
        n_rounds=1,
        is_short=False,
        keep=True,
        json_file=None,
        plot_directory=None,
    )


def test_a_disk_that_is_too_full_is_told_before_anything_is_made(
    plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(1 << 40, 0, 1 << 30))

    with pytest.raises(BenchFailed, match=r"are to be written below .* 1\.00 GiB are free"):
        run_bench(plan)

    assert [path.name for path in (plan.home / "bench").iterdir()] == ["lock"]


def test_a_machine_that_is_too_small_is_told(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "available_memory_bytes", lambda: 1 << 30)

    with pytest.raises(BenchFailed, match=r"of memory are needed, and 1\.00 GiB are available"):
        run_bench(plan)


def test_figures_that_can_t_be_written_are_told_first(plan: Plan) -> None:
    file = plan.home / "missing" / "figures.json"

    with pytest.raises(BenchFailed, match="can't be written"):
        run_bench(replace(plan, json_file=file))

    assert list(plan.home.iterdir()) == []


@pytest.fixture
def chosen(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Plan]:
    """Return the plans of the command lines that are run, which measure nothing."""
    plans: list[Plan] = []
    monkeypatch.setenv("PILOTLIGHT_HOME", str(tmp_path))
    monkeypatch.setattr(bench, "run_bench", plans.append)
    return plans


def run(*arguments: str) -> Any:
    return CliRunner().invoke(command.load, arguments, catch_exceptions=False)


def test_by_default_all_but_the_ablation_is_measured(chosen: list[Plan]) -> None:
    run()
    run("--ablation")
    run("--short", "--only", "ablation", "--ablation")
    run("--only", "cold", "--only", "dram", "--runs", "3", "--no-keep")

    usual, ablated, short, some = chosen
    assert (usual.parts, usual.n_rounds, usual.keep) == (USUAL_PARTS, 7, True)
    assert ablated.parts == PARTS
    assert (short.parts, short.n_rounds, short.is_short) == (("ablation",), 1, True)
    assert (some.parts, some.n_rounds, some.keep) == (("cold", "dram"), 3, False)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--runs", "0"], "0 is not in the range x>=1"),
        (["--only", "everything"], "'everything' is not one of"),
        (["a-directory"], "unexpected extra argument"),
    ],
)
def test_wrong_usage_is_told(arguments: list[str], words: str, chosen: list[Plan]) -> None:
    result = run(*arguments)

    assert result.exit_code == 2
    assert words in result.output
    assert chosen == []


def test_the_help_teaches() -> None:
    text = run("--help").output

    for words in (
        "--json",
        "--short",
        "--only",
        "--plot",
        "half an hour",
        "safetensors",
        "the limit",
    ):
        assert words in text, words
