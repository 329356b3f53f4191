from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pilotlight.scheduler.simulation.scenarios import (
    InvalidScenario,
    Scenario,
    load_scenario,
    shipped_names,
)

TEXT = """\
title: A test
cluster:
  channels:
    - {name: san, bytes_per_second: 1e9, discipline: in_turn}
    - {name: nic, bytes_per_second: 1e9}
  nodes:
    - name: node
      count: 2
      devices: 2
      device_gib: 10
      dram_gb: 20
      disks: [{bytes_per_second: 1e9, via: [nic]}]
models:
  - {name: m, count: 3, size_gb: 5}
  - {name: other, size_gb: 5}
workload:
  duration_seconds: 10
  parts:
    - models: [m]
      arrivals: {kind: gamma, requests_per_second: 1}
      service: {kind: tokens}
failures:
  - {kind: lose_node, at_seconds: 1, node: node-1}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "test.yaml"
    path.write_text(TEXT)
    return path


@pytest.fixture
def refusal(file: Path) -> Callable[..., str]:
    """Return what is said of the scenario with other values, without its file's name."""

    def of(changes: dict[str, Any]) -> str:
        with pytest.raises(InvalidScenario) as caught:
            load_scenario(file, changes=changes)
        source, _, said = str(caught.value).partition(": ")
        assert source == str(file)
        return said

    return of


def test_a_scenario_is_read_with_its_defaults(file: Path) -> None:
    scenario = load_scenario(file)

    assert (scenario.name, scenario.title) == ("test", "A test")
    assert scenario.cluster.nodes[0].times.bind_seconds == 0.05
    assert scenario.models[0].keep_alive_seconds == "load"
    assert scenario.policies == ("random", "serverlessllm")
    assert not scenario.needs_traces


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        # Keys and types.
        ("cluster.nodes[0].device_gb", 4, "there is no such key; did you mean device_gib?"),
        ("mdels", [], "there is no such key; did you mean models?"),
        ("models[1].copies.placd", "x", "there is no such key; did you mean placed?"),
        ("cluster.nodes[0].count", "many", "expected a whole number, got text"),
        ("cluster.nodes[0].count", 1.5, "expected a whole number, got a number"),
        ("cluster.nodes[0].devices", 0, "expected a whole number >= 1"),
        ("models[0].size_gb", -1, "expected a number > 0.0"),
        ("models[0].size_gb", True, "expected a number, got true or false"),
        ("models[0].keep_alive_seconds", -1, "expected a number >= 0.0"),
        ("models[0].keep_alive_seconds", "loads", "invalid enum value 'loads'"),
        ("models[0].keep_alive_seconds", [1], "expected a number or text, got a list"),
        ("workload.parts[0].arrivals.kind", "gama", "invalid value 'gama'"),
        ("workload.parts[0].arrivals.requests_per_second", -2, "expected a number > 0.0"),
        ("workload.parts[0].arrivals.cv", 1000, "expected a number <= 100.0"),
        ("delays.command_seconds", -0.1, "expected a number >= 0.0"),
        ("failures[0].kind", "lose", "invalid value 'lose'"),
        # Numbers that YAML does not have, but who changes a value may.
        ("models[0].size_gb", float("nan"), "nan is no number that can be counted with"),
        ("models[0].size_gb", float("inf"), "inf is no number that can be counted with"),
        # Names.
        (
            "cluster.nodes[0].disks[0].via[0]",
            "san2",
            "there is no 'san2' in cluster.channels; there are: san, nic",
        ),
        (
            "cluster.nodes[0].disks[0].via[0]",
            "san",
            "'san' serves in turn, which only the disk itself may",
        ),
        ("workload.parts[0].models[0]", "n", "there is no 'n' in models; there are: m, other"),
        (
            "failures[0].node",
            "node",
            "there is no 'node' in cluster.nodes; there are: node-1, node-2",
        ),
        # Sense.
        ("models[0].min_replicas", 2, "there are more than max_replicas"),
        ("models[0].devices", 3, "3 are needed, and no node that holds it has more than 2"),
        (
            "models[0].size_gb",
            12,
            ("12 GB are more than 1 of the devices hold on any node that holds it: 10.7 GB; give it"
             " more devices, or these more memory"),
        ),
        ("workload.parts", [], "there are none, so there are no requests"),
        ("policies", [], "there are none"),
        ("cluster.nodes", [], "there are none"),
        ("cluster.nodes[0].disks", [], "there are none, so checkpoints can lie nowhere"),
        ("models", [], "there are none"),
    ],
)  # fmt: skip
def test_a_value_that_makes_no_sense_is_named_by_its_key(
    refusal: Callable[..., str], key: str, value: object, said: str
) -> None:
    assert refusal({key: value}) == f"{key}: {said}"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"cluster.nodes[0].disks[0]": {"channel": "san", "bytes_per_second": 1.0}},
            "cluster.nodes[0].disks[0]: a disk has either bytes_per_second or a shared channel",
        ),
        (
            {"cluster.nodes[0].disks[0]": {}},
            "cluster.nodes[0].disks[0]: a disk has either bytes_per_second or a shared channel",
        ),
        (
            {"cluster.nodes[0].disks": [{"bytes_per_second": 1.0}, {"bytes_per_second": 2.0}]},
            "cluster.nodes[0].disks: 'disk' is there twice",
        ),
        ({"models[1].name": "m-2"}, "models: 'm-2' is there twice"),
        (
            {"models[0].copies": {"placed": "listed", "nodes": ["node-1", "node-3"]}},
            (
                "models[0].copies.nodes[1]: there is no 'node-3' in cluster.nodes; there are:"
                " node-1, node-2"
            ),
        ),
        (
            {"models[0].copies.nodes": ["node-1"]},
            "models[0].copies.nodes: they are given where copies are `placed: listed`, only then",
        ),
        (
            {"workload.duration_seconds": None},
            "workload: it never ends; set duration_seconds, requests, or both of them",
        ),
        (
            {"workload.parts[0].service": None},
            "workload.parts[0].service: only a trace that is replayed says how long requests are",
        ),
        (
            {"workload.parts[0].arrivals.popularity.weights": [1, 2]},
            "workload.parts[0].arrivals.popularity.weights: there are 2 of them for 3 models",
        ),
        (
            {"workload.parts[0].arrivals.popularity.weights": [0, 0, 0]},
            (
                "workload.parts[0].arrivals.popularity.weights: all of them are 0, so there are no"
                " requests"
            ),
        ),
        (
            {
                "workload.parts[0].arrivals.exact": True,
                "workload.parts[0].arrivals.requests_per_second": 0.01,
            },
            "workload.parts[0].arrivals: there are no requests; raise requests_per_second",
        ),
        (
            {"failures[0]": {"kind": "slow_channel", "at_seconds": 1, "channel": "x", "factor": 0}},
            (
                "failures[0].channel: there is no 'x' in the cluster; there are: san, nic,"
                " disk@node-1, disk@node-2"
            ),
        ),
    ],
)
def test_sections_that_contradict_each_other_are_refused(
    refusal: Callable[..., str], changes: dict[str, Any], said: str
) -> None:
    assert refusal(changes) == said


def test_a_model_may_fit_only_where_its_copies_are_not(tmp_path: Path) -> None:
    large = TEXT.replace(
        "    - name: node\n",
        "    - {name: large, devices: 8, device_gib: 10, dram_gb: 1,"
        " disks: [{bytes_per_second: 1e9}]}\n    - name: node\n",
    )
    path = tmp_path / "test.yaml"
    path.write_text(large)
    listed = {"models[0].copies": {"placed": "listed", "nodes": ["node-1"]}}

    assert load_scenario(path, changes={"models[0].devices": 8}).models[0].devices == 8
    with pytest.raises(InvalidScenario, match=r"devices: 8 are needed, and no node that holds it"):
        load_scenario(path, changes={"models[0].devices": 8, **listed})


def test_a_key_that_is_missing_is_named(tmp_path: Path) -> None:
    path = tmp_path / "test.yaml"
    path.write_text(TEXT.replace("title: A test\n", ""))

    with pytest.raises(InvalidScenario, match=r"test\.yaml: title: it is missing$"):
        load_scenario(path)


def test_an_unknown_name_is_answered_with_the_nearest_one() -> None:
    with pytest.raises(InvalidScenario) as caught:
        load_scenario("paper-8aa")

    assert str(caught.value) == (
        "paper-8aa: there is no such scenario, and no such file; did you mean paper-8a?"
    )
    with pytest.raises(InvalidScenario, match=f"shipped are {', '.join(shipped_names())}"):
        load_scenario("zzz")


def test_a_file_is_based_on_a_shipped_scenario_or_on_one_beside_it(
    file: Path, tmp_path: Path
) -> None:
    (tmp_path / "a.yaml").write_text("based_on: test.yaml\ntitle: Another\n")
    (tmp_path / "b.yaml").write_text("based_on: quick\nmodels: [{name: model, count: 2}]\n")

    a: Scenario = load_scenario(tmp_path / "a.yaml")
    b: Scenario = load_scenario(tmp_path / "b.yaml")

    assert (a.name, a.title, a.models) == ("a", "Another", load_scenario(file).models)
    assert (b.name, b.models[0].count) == ("b", 2)
    assert b.models[0].size_gb == load_scenario("quick").models[0].size_gb


def test_a_file_that_is_based_on_itself_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("based_on: b.yaml\n")
    (tmp_path / "b.yaml").write_text("based_on: a.yaml\n")

    with pytest.raises(InvalidScenario, match=r"a\.yaml: based_on: it is based on itself"):
        load_scenario(tmp_path / "a.yaml")


def test_a_file_that_is_based_on_nothing_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("based_on: qiuck\n")

    with pytest.raises(InvalidScenario, match=r"a\.yaml: based_on: 'qiuck'.* did you mean quick"):
        load_scenario(tmp_path / "a.yaml")


@pytest.mark.parametrize("name", ["a b", "", "-a", "a/b", "a\n"])
def test_a_name_is_made_of_letters_digits_and_a_few_signs(
    refusal: Callable[..., str], name: str
) -> None:
    assert refusal({"models[0].name": name}).startswith("models[0].name: expected text matching")


@pytest.mark.parametrize(
    ("failures", "said"),
    [
        (
            [
                {"kind": "lose_node", "node": "node-1", "at_seconds": 20},
                {"kind": "cut_off", "node": "node-1", "at_seconds": 22, "seconds": 5},
            ],
            "failures[1]: node-1 is not over the failure before it by then",
        ),
        (
            [
                {"kind": "slow_channel", "channel": "disk@node-1", "at_seconds": 9, "factor": 0.5},
                {
                    "kind": "slow_channel",
                    "channel": "disk@node-1",
                    "at_seconds": 5,
                    "factor": 0.1,
                    "seconds": 60,
                },
            ],
            "failures[0]: disk@node-1 is not over the failure before it by then",
        ),
    ],
)
def test_failures_of_one_thing_do_not_overlap(failures: list[dict[str, Any]], said: str) -> None:
    with pytest.raises(InvalidScenario) as caught:
        load_scenario("quick", changes={"failures": failures})

    assert str(caught.value).endswith(said)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("models[0].size_gb", 1e300),
        ("cluster.nodes[0].dram_gb", 1e10),
        ("cluster.nodes[0].times.node_spread", 1000),
        ("cluster.nodes[0].times.heartbeat_seconds", 1e-9),
        ("models[0].priority", 1 << 63),
        ("delays.timeout_seconds", 1e300),
        ("name", "../../elsewhere"),
    ],
)
def test_numbers_beyond_all_measure_are_refused_by_their_key(key: str, value: object) -> None:
    with pytest.raises(InvalidScenario, match=re.escape(key)):
        load_scenario("quick", changes={key: value})
