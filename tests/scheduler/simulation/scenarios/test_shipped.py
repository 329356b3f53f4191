from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any, NoReturn

import pytest

from pilotlight.scheduler.demo.layout import DEVICES, DRAM_BYTES, HOLDINGS
from pilotlight.scheduler.simulation.scenarios import (
    InvalidScenario,
    load_scenario,
    shipped_names,
)
from pilotlight.scheduler.simulation.scenarios.schema import SCHEMA_FILE, schema_text

# Taken before any test takes settings of the outside away.
PUBLISHED = Path(
    os.environ.get("PILOTLIGHT_TRACES", Path(__file__).parents[5] / "shared" / "traces")
)
PANELS = [
    f"paper-{panel}" for panel in ("8a", "8b", "8c", "8d", "8e", "8f", "9a", "9b", "9c", "9d")
]


def test_the_shipped_scenarios_are_these() -> None:
    assert shipped_names() == sorted(
        ["demo", "hundred-nodes", "quick", "rare-models", "thousand-nodes", *PANELS]
    )


@pytest.mark.parametrize("name", [name for name in shipped_names() if name != "rare-models"])
def test_every_shipped_scenario_is_valid_and_has_requests(name: str) -> None:
    scenario = load_scenario(name)
    built = scenario.build(1)

    assert scenario.name == name
    assert not scenario.needs_traces
    assert len(list(islice(built.arrivals, 50))) == 50
    assert built.models


def test_the_schema_is_that_of_the_sections() -> None:
    assert SCHEMA_FILE.read_text() == schema_text(), (
        "run: python -m pilotlight.scheduler.simulation.scenarios.schema"
    )


def test_the_schema_knows_every_key_and_no_other() -> None:
    schema: dict[str, Any] = json.loads(SCHEMA_FILE.read_text())
    definitions = schema["$defs"]

    assert set(definitions["Scenario"]["required"]) == {"title", "cluster", "models", "workload"}
    objects = [each for each in definitions.values() if each.get("type") == "object"]
    assert len(objects) > 20
    assert all(each["additionalProperties"] is False for each in objects)


def test_the_demo_is_laid_out_as_the_real_one() -> None:
    built = load_scenario("demo").build(1)

    held = {
        node: {copy.reference for copy in machine.copies}
        for node, machine in built.machines.items()
    }
    assert held == {node: set(models) for node, models in HOLDINGS.items()}
    assert {machine.devices for machine in built.machines.values()} == {DEVICES}
    chunks = {machine.dram_bytes >> 24 for machine in built.machines.values()}
    assert chunks == {DRAM_BYTES >> 24}


@pytest.mark.parametrize(
    ("name", "requests"),
    [
        # At 0.2, 0.8 and 1.4 requests per second, for 660 s.
        *(("paper-8a", 132), ("paper-8b", 528), ("paper-8c", 924)),
        *(("paper-8d", 132), ("paper-8e", 528), ("paper-8f", 924)),
        # As many as the paper's curves have steps.
        *(("paper-9a", 80), ("paper-9b", 59), ("paper-9c", 80), ("paper-9d", 53)),
    ],
)
def test_the_papers_panels_have_its_requests(name: str, requests: int) -> None:
    scenario = load_scenario(name)
    arrivals = list(scenario.build(1).arrivals)

    assert len(arrivals) == requests
    end = scenario.workload.begins_at_seconds + 660.0
    assert scenario.workload.begins_at_seconds <= arrivals[0].at <= arrivals[-1].at <= end
    mean = sum(each.serve_seconds or 0.0 for each in arrivals) / requests
    section = scenario.workload.parts[0].service
    assert section is not None
    # The standard error of the mean, of a CV of at most 0.8: four of them are 0.44 for 53.
    assert mean == pytest.approx(getattr(section, "mean_seconds"), rel=0.45)  # noqa: B009


def test_the_papers_panels_differ_only_in_models_rates_and_lengths() -> None:
    first, *others = (load_scenario(name) for name in PANELS)

    for other in others:
        for section in ("cluster", "delays", "priors", "policies", "seeds", "failures"):
            assert getattr(other, section) == getattr(first, section)
        one, another = first.workload.parts[0].arrivals, other.workload.parts[0].arrivals
        for key in ("cv", "bursts", "exact", "interval_minutes", "calls"):
            assert getattr(another, key) == getattr(one, key)
        assert other.workload.duration_seconds == first.workload.duration_seconds
        assert other.models[0].keep_alive_seconds == "load"


def test_of_opt_30b_two_checkpoints_and_no_third_one_fit_into_a_servers_memory() -> None:
    built = load_scenario("paper-9b").build(1)

    assert Counter(node for _, node in built.in_dram) == dict.fromkeys(built.machines, 2)


def test_a_thousand_nodes_have_the_load_that_is_asked_of_them() -> None:
    for name, nodes in (("thousand-nodes", 1000), ("hundred-nodes", 100)):
        scenario = load_scenario(name)
        built = scenario.build(1)
        arrivals = scenario.workload.parts[0].arrivals
        rate: float = getattr(arrivals, "requests_per_second")  # noqa: B009

        assert (len(built.machines), len(built.models)) == (nodes, 2 * nodes)
        assert scenario.workload.requests == 1000 * nodes
        # 10 s of half a device for each request.
        assert rate * 10.0 / (2 * 8 * nodes) == pytest.approx(0.7)
        assert {each.concurrency for each in built.machines.values()} == {2}


def test_rare_models_say_what_they_need(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PILOTLIGHT_TRACES", raising=False)
    scenario = load_scenario("rare-models")

    assert scenario.needs_traces
    with pytest.raises(InvalidScenario, match="PILOTLIGHT_TRACES is not set; set PILOTLIGHT_TRAC"):
        scenario.build(1)


def test_rare_models_are_all_asked_for_now_and_then(absent: Callable[[str, str], NoReturn]) -> None:
    if not (PUBLISHED / "servegen_m_small").is_dir():
        absent("traces", "PILOTLIGHT_TRACES names no folder with published traces")

    requests = Counter(
        each.model for each in load_scenario("rare-models").build(1, traces=PUBLISHED).arrivals
    )

    # An hour at one request per second; how many come is left to chance, which is bursty.
    assert sum(requests.values()) == pytest.approx(3600, rel=0.2)
    assert len(requests) == 43
    assert max(requests.values()) < 400
