from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from tests.scheduler.simulation.clusters import Cluster

from pilotlight.scheduler.errors import BrokenTrace
from pilotlight.scheduler.policies import ServerlessLLM
from pilotlight.scheduler.simulation.report import RunResult, result_of
from pilotlight.scheduler.simulation.report.published import beside_published
from pilotlight.scheduler.simulation.report.run_result import CURVE
from pilotlight.scheduler.testing.reports import model_of

HEADER = "panel,scheduler,percentile,startup_latency_s\n"


@pytest.fixture(scope="module")
def results() -> list[RunResult]:
    """Return 21 runs whose curves are 1, 2, ... 21 s throughout."""
    cluster = Cluster(ServerlessLLM(), [model_of("m")])
    cluster.request("m", 2.0)
    result = result_of(
        cluster.run(), cluster.channels, scenario="s", policy="serverlessllm", seed=1
    )
    return [
        msgspec.structs.replace(
            result,
            start=msgspec.structs.replace(result.start, curve=(float(n),) * len(CURVE)),
        )
        for n in range(1, 22)
    ]


def _file(tmp_path: Path, *rows: str) -> Path:
    file = tmp_path / "published.csv"
    file.write_text(HEADER + "".join(f"{row}\n" for row in rows))
    return file


@pytest.mark.parametrize(
    ("seconds", "is_inside"), [("1.9", False), ("2", True), ("20", True), ("20.1", False)]
)
def test_the_band_leaves_out_five_percent_of_the_runs_at_each_end(
    results: list[RunResult], tmp_path: Path, seconds: str, is_inside: bool
) -> None:
    file = _file(tmp_path, f"8a light,ServerlessLLM,50,{seconds}")

    (found,) = beside_published(results, file, panel="8a")

    assert (found.low, found.high) == (2.0, 20.0)
    assert found.is_inside is is_inside


@pytest.mark.parametrize(("end", "is_inside"), [("19", True), ("22", False)])
def test_beyond_the_figures_end_only_more_than_that_is_known(
    results: list[RunResult], tmp_path: Path, end: str, is_inside: bool
) -> None:
    file = _file(tmp_path, f"8a,ServerlessLLM,50,{end}", "8a,ServerlessLLM,99,>axis")

    _, beyond = beside_published(results, file, panel="8a")

    assert beyond.is_beyond
    assert beyond.is_inside is is_inside


def test_other_panels_and_schedulers_are_left_out(results: list[RunResult], tmp_path: Path) -> None:
    file = _file(tmp_path, "8a,ServerlessLLM,50,3", "8a,Serverless,50,3", "8b,ServerlessLLM,50,3")

    assert len(beside_published(results, file, panel="8a")) == 1


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (HEADER, "no rows of panel 8a"),
        ("panel,scheduler\n8a,x\n", "row 1: its columns are not panel, scheduler"),
        (HEADER + "8a,ServerlessLLM,50,soon\n", "row 2: could not convert"),
    ],
)
def test_a_broken_table_is_named_with_row_and_rule(
    results: list[RunResult], tmp_path: Path, text: str, said: str
) -> None:
    file = tmp_path / "published.csv"
    file.write_text(text)

    with pytest.raises(BrokenTrace, match=said) as caught:
        beside_published(results, file, panel="8a")

    assert str(caught.value).startswith(str(file))
