from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pilotlight.scheduler.simulation.scenarios import shipped_names

pytestmark = pytest.mark.integration

Run = Callable[..., tuple[int, str, str]]

SHORT = ("--seeds", "2", "--set", "workload.duration_seconds=40")


def test_lists_the_scenarios_that_are_shipped(pilotlight: Run) -> None:
    code, out, error = pilotlight("simulate", "-o", "json")

    rows = json.loads(out)
    assert (code, error) == (0, "")
    assert [row["name"] for row in rows] == shipped_names()
    assert all(row["title"] for row in rows)
    assert [row["name"] for row in rows if row["needs"]] == ["rare-models"]


def test_compares_policies_in_words(pilotlight: Run) -> None:
    code, out, _ = pilotlight("simulate", "quick", *SHORT)

    times, counts = out.split("\n\n")
    assert code == 0
    assert [line.split()[0] for line in times.splitlines()[1:]] == [
        "random",
        "random",
        "serverlessllm",
        "serverlessllm",
    ]
    assert " ± " in times
    assert counts.splitlines()[0].split()[:3] == ["POLICY", "REQUESTS", "WARM"]


def test_writes_the_same_twice_but_for_what_it_took(pilotlight: Run, tmp_path: Path) -> None:
    written: list[dict[str, Any]] = []
    for name, n_processes in (("one", "1"), ("two", "2")):
        file = tmp_path / f"{name}.json"
        code, _, _ = pilotlight(
            "simulate", "quick", *SHORT, "--processes", n_processes, "--json", str(file)
        )
        assert code == 0
        written.append(json.loads(file.read_text()))

    one, other = written
    for document in written:
        assert document.pop("wall_seconds") > 0.0
        assert document.pop("peak_memory_gib") > 0.0
    assert json.dumps(one) == json.dumps(other)
    assert one["requests"] == one["runs"][0]["requests"] > 10
    assert {run["policy"] for run in one["runs"]} == {"random", "serverlessllm"}


def test_draws_what_happened(pilotlight: Run, tmp_path: Path) -> None:
    code, _, error = pilotlight(
        "simulate", "quick", *SHORT, "--policy", "random", "--plot", str(tmp_path / "plots")
    )

    assert code == 0
    assert sorted(file.name for file in (tmp_path / "plots").iterdir()) == [
        "quick-curves.svg",
        "quick-random-timeline.svg",
    ]
    assert "quick-curves.svg" in error


def test_says_how_much_more_a_request_costs_in_a_larger_cluster(
    pilotlight: Run, tmp_path: Path
) -> None:
    file = tmp_path / "figures.json"

    code, out, _ = pilotlight(
        "simulate", "quick", *SHORT, "--growth-from", "quick", "--json", str(file)
    )

    assert code == 0
    assert "a request costs" in out
    assert json.loads(file.read_text())["growth_2_to_2_nodes"] > 0.0


def test_says_how_many_published_percentiles_lie_within_the_runs(
    pilotlight: Run, tmp_path: Path
) -> None:
    published = tmp_path / "published.csv"
    published.write_text(
        "panel,scheduler,percentile,startup_latency_s\n"
        "quick OPT,Serverless,1,0.0\n"
        "quick OPT,Serverless,50,999\n"
        "quick OPT,ServerlessLLM,100,>axis\n"
        "8a,Serverless,50,1\n"
    )

    code, out, _ = pilotlight("simulate", "quick", *SHORT, "--against", str(published))

    rows = [line.split() for line in out.splitlines() if "INSIDE" in line or "p50 999" in line]
    assert code == 0
    assert rows[0][:3] == ["POLICY", "INSIDE", "OF"]
    assert rows[1][:5] == ["random", "1", "2", "p50", "999"]


def test_says_what_no_policy_can_beat(pilotlight: Run, tmp_path: Path) -> None:
    file = tmp_path / "figures.json"

    code, out, _ = pilotlight("simulate", "quick", *SHORT, "--bound", "--json", str(file))

    document = json.loads(file.read_text())
    bound = document["bound"]["first_token_mean_seconds"]["mean"]
    means = [each["figures"]["first_token_mean_seconds"]["mean"] for each in document["comparison"]]
    assert code == 0
    assert "no policy's mean first token is below" in out
    assert 0.0 < bound < min(means)
    closed = document["bound"]["headroom_closed"]
    assert closed["random"] == 0.0
    assert closed["serverlessllm"] == pytest.approx((means[0] - means[1]) / (means[0] - bound))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("simulate", "quik"), "did you mean quick?"),
        (("simulate", "quick", "--policy", "nobodys"), "no pilotlight.policies plugin is called"),
        (("simulate", "quick", "--set", "nonsense"), "is not KEY=VALUE"),
        (("simulate", "quick", "--set", "seeds=010"), "seeds: expected a whole number"),
        (("simulate", "quick", "--growth-from", "nosuch"), "there is no such scenario"),
        (("simulate", "quick", "--set", "cluster.colour=red"), "cluster.colour"),
        (("simulate", "quick", "--seeds", "0"), "--seeds"),
        (("simulate", "quick", "--json", "/nowhere/f.json"), "can't be written"),
        (("simulate", "quick", *SHORT, "--against", "/nowhere.csv"), "/nowhere.csv"),
    ],
)
def test_says_in_a_line_what_is_wrong(
    pilotlight: Run, arguments: tuple[str, ...], said: str
) -> None:
    code, _, error = pilotlight(*arguments)

    assert code in (1, 2)
    assert said in error
    assert "Traceback" not in error


def test_a_scenario_of_ones_own_is_named_with_key_and_rule(pilotlight: Run, tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("based_on: quick\nmodels:\n  - name: model\n    devices: 3\n")

    code, _, error = pilotlight("simulate", str(file))

    assert code == 1
    assert error.startswith(f"Error: {file}: models[0]")
