from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from pathlib import Path

import msgspec
import pytest
from tests.scheduler.simulation.clusters import Cluster

from pilotlight.scheduler.policies import ServerlessLLM
from pilotlight.scheduler.simulation.report import RunResult, plots, result_of
from pilotlight.scheduler.testing.reports import model_of


@pytest.fixture
def results() -> list[RunResult]:
    cluster = Cluster(ServerlessLLM(), [model_of("m"), model_of("n")])
    for row in range(6):
        cluster.request("mn"[row % 2], 2.0 + 3.0 * row)
    result = result_of(
        cluster.run(), cluster.channels, scenario="small", policy="serverlessllm", seed=1
    )
    return [result, msgspec.structs.replace(result, policy="another")]


def test_curves_and_timelines_are_pictures_with_words(
    results: list[RunResult], tmp_path: Path
) -> None:
    files = plots.draw(results, tmp_path)

    assert [file.name for file in files] == [
        "small-curves.svg",
        "small-serverlessllm-timeline.svg",
        "small-another-timeline.svg",
    ]
    words = [_words(file) for file in files]
    assert {"serverlessllm", "another", "share of requests"} <= words[0]
    assert {"node-0", "READY", "starts from SSD"} <= words[1]


def _words(file: Path) -> set[str]:
    root = ElementTree.parse(file).getroot()
    return {
        "".join(each.itertext()).strip() for each in root.iter("{http://www.w3.org/2000/svg}text")
    }


def test_equal_runs_are_equal_pictures(results: list[RunResult], tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()

    for one, other in zip(
        plots.draw(results, tmp_path / "a"), plots.draw(results, tmp_path / "b"), strict=True
    ):
        assert one.read_bytes() == other.read_bytes()


def test_who_is_late_for_ever_is_left_out_of_the_curve(
    results: list[RunResult], tmp_path: Path
) -> None:
    start = results[0].start
    late = msgspec.structs.replace(start, curve=(*start.curve[:-1], float("inf")))

    plots.draw([msgspec.structs.replace(results[0], start=late)], tmp_path)

    assert "nan" not in (tmp_path / "small-curves.svg").read_text().lower()


def test_without_matplotlib_it_is_said_what_to_install(
    monkeypatch: pytest.MonkeyPatch, results: list[RunResult], tmp_path: Path
) -> None:
    monkeypatch.setattr(plots, "find_spec", lambda name: None)

    with pytest.raises(plots.PlotsUnavailable, match=r"pip install 'pilotlight\[plots\]'"):
        plots.draw(results, tmp_path)
