from __future__ import annotations

import pickle
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import msgspec
import pytest

from pilotlight.estimators import Priors, StartEstimator
from pilotlight.process.errors import PluginError
from pilotlight.scheduler.core.core import Core
from pilotlight.scheduler.policies import ServerlessLLM
from pilotlight.scheduler.simulation import (
    Delays,
    Discipline,
    Ending,
    EventHeap,
    LinearTimes,
    MeasuredTimes,
    Network,
    NodeTimes,
    Simulation,
)
from pilotlight.scheduler.simulation.scenarios import Built, InvalidScenario, load_scenario
from pilotlight.scheduler.simulation.scenarios.cluster import Times
from pilotlight.scheduler.simulation.scenarios.models import Linear
from pilotlight.scheduler.simulation.scenarios.scenario import ControllerDelays, PriorConstants
from pilotlight.scheduler.simulation.workload import InvalidWorkload
from pilotlight.store_node.core import ValueEvictor
from pilotlight.store_node.protocol import ModelId, NodeId

TEXT = """\
title: A test
cluster:
  nodes:
    - name: node
      count: 4
      devices: 2
      device_gib: 10
      dram_gb: 11
      disks: [{bytes_per_second: 1e9}]
      device_bytes_per_second: 1e10
models:
  - {name: m, count: 6, size_gb: 5, keep_alive_seconds: 3}
workload:
  duration_seconds: 20
  parts:
    - arrivals: {kind: gamma, requests_per_second: 2, popularity: {zipf_exponent: 1}}
      service: {kind: seconds, mean_seconds: 0.5}
"""


@pytest.fixture
def built(tmp_path: Path) -> Callable[..., Built]:
    def with_changes(*, seed: int = 1, traces: Path | None = None, **changes: Any) -> Built:
        path = tmp_path / "test.yaml"
        path.write_text(TEXT)
        return load_scenario(path, changes=_dotted(changes)).build(seed, traces=traces)

    return with_changes


def _dotted(changes: dict[str, Any]) -> dict[str, Any]:
    """Return short names' changes under their keys."""
    keys = {
        "copies": "models[0].copies",
        "profile": "models[0].profile",
        "channels": "cluster.channels",
        "disks": "cluster.nodes[0].disks",
        "part": "workload.parts[0]",
        "failures": "failures",
        "evictor": "cluster.evictor",
    }
    return {keys[name]: value for name, value in changes.items()}


def holders(built: Built) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for node, machine in built.machines.items():
        for copy in machine.copies:
            found.setdefault(copy.reference, []).append(node)
    return dict(sorted(found.items()))


@pytest.mark.parametrize(
    ("section", "made"),
    [
        (ControllerDelays, Delays),
        (Times, NodeTimes),
        (PriorConstants, Priors),
        (Linear, LinearTimes),
    ],
)
def test_sections_have_the_names_and_defaults_of_what_they_become(
    section: type[msgspec.Struct], made: type[Any]
) -> None:
    assert msgspec.structs.asdict(section()) == asdict(made())
    assert section.__struct_fields__ == tuple(field.name for field in fields(made))


def test_models_and_machines_are_as_the_file_says(built: Callable[..., Built]) -> None:
    found = built()

    model, machine = found.models[0], found.machines[NodeId("node-1")]
    assert [each.name for each in found.models] == [f"m-{number}" for number in range(1, 7)]
    assert (model.size_bytes, model.keep_alive_seconds) == (5 * 10**9, 3.0)
    assert (machine.devices, machine.device_bytes, machine.dram_bytes) == (2, 10 << 30, 11 * 10**9)
    assert len(machine.copies) == 6
    assert machine.copies[0].layout_id == model.layout_id
    # 5 GB in chunks of 16 MiB.
    assert machine.copies[0].n_chunks == 299
    assert list(machine.disks) == ["disk@node-1"]
    assert [link.name for link in machine.links] == ["device-0@node-1", "device-1@node-1"]
    assert sorted(found.channels) == sorted(
        f"{kind}@node-{number}"
        for kind in ("disk", "device-0", "device-1")
        for number in range(1, 5)
    )


def test_each_build_has_nodes_and_channels_of_its_own(built: Callable[..., Built]) -> None:
    first, second = built(), built()

    assert list(first.arrivals) == list(second.arrivals)
    assert list(built(seed=2).arrivals) != list(built().arrivals)
    assert first.channels["disk@node-1"] is not second.channels["disk@node-1"]


def test_copies_are_dealt_round_robin(built: Callable[..., Built]) -> None:
    assert holders(built(copies={"placed": "round_robin", "each": 2})) == {
        "m-1": ["node-1", "node-2"],
        "m-2": ["node-3", "node-4"],
        "m-3": ["node-1", "node-2"],
        "m-4": ["node-3", "node-4"],
        "m-5": ["node-1", "node-2"],
        "m-6": ["node-3", "node-4"],
    }


def test_popular_models_have_more_copies(built: Callable[..., Built]) -> None:
    found = holders(built(copies={"placed": "by_popularity", "each": 2}))

    # Shares 1 / rank of 2.45, of 12 copies: 4.9 (of four nodes), 2.4, 1.6, 1.2, 0.98, 0.82.
    assert [len(nodes) for nodes in found.values()] == [4, 2, 2, 1, 1, 1]
    assert max(Counter(node for nodes in found.values() for node in nodes).values()) == 3


def test_copies_lie_where_they_are_listed(built: Callable[..., Built]) -> None:
    found = holders(built(copies={"placed": "listed", "nodes": ["node-3", "node-1"]}))

    assert found == {f"m-{number}": ["node-1", "node-3"] for number in range(1, 7)}


def test_every_model_is_in_dram_once_before_any_is_twice(built: Callable[..., Built]) -> None:
    found = built(copies={"in_dram": 3})

    # Four nodes hold two each: six models once, and two of them twice.
    assert len(found.in_dram) == len(set(found.in_dram)) == 8
    assert {model for model, _ in found.in_dram[:6]} == {model.name for model in found.models}
    assert set(Counter(node for _, node in found.in_dram).values()) == {2}


def test_copies_are_dealt_to_the_disks_of_a_node(built: Callable[..., Built]) -> None:
    disks = [{"name": "a", "bytes_per_second": 1.0}, {"name": "b", "bytes_per_second": 2.0}]

    machine = built(disks=disks).machines[NodeId("node-1")]

    assert Counter(copy.ssd_channel for copy in machine.copies) == {"a@node-1": 3, "b@node-1": 3}


def test_channels_are_shared_by_all_nodes_or_by_some(built: Callable[..., Built]) -> None:
    channels = [
        {"name": "san", "bytes_per_second": 4.0, "discipline": "in_turn"},
        {"name": "nic", "bytes_per_second": 3.0, "nodes_each": 2},
    ]
    found = built(channels=channels, disks=[{"channel": "san", "via": ["nic"]}])

    paths = {
        node: [channel.name for channel in path]
        for node, machine in found.machines.items()
        for path in machine.disks.values()
    }
    assert paths == {
        "node-1": ["san", "nic-1"],
        "node-2": ["san", "nic-1"],
        "node-3": ["san", "nic-2"],
        "node-4": ["san", "nic-2"],
    }
    assert found.channels["san"].discipline is Discipline.IN_TURN
    (first,), (second,) = (
        found.machines[NodeId(node)].disks.values() for node in ("node-1", "node-2")
    )
    assert first[0] is second[0]
    assert first[1] is second[1]


def test_serve_times_are_those_of_a_measured_profile(
    built: Callable[..., Built], tmp_path: Path
) -> None:
    (tmp_path / "p.csv").write_text(
        "source,model,gpu,profile,input_len,batch,avg_prefill_s,avg_decode_step_s,"
        "max_seq_len,max_batch_size\n"
        "a,yi,a100,i64b1,64,1,0.1,0.02,,\n"
        "a,yi,a100,i128b1,128,1,0.2,0.04,,\n"
        "a,yi,a100,i64b4,64,4,0.4,0.06,,\n"
        "a,yi,h100,i64b1,64,1,9,9,,\n"
    )
    profile = {"model": "yi", "device": "a100", "file": "p.csv"}

    times = (
        built(profile=profile, traces=tmp_path)
        .machines[NodeId("node-1")]
        .serve_times(ModelId("m-1"))
    )

    assert isinstance(times, MeasuredTimes)
    assert times.prefill_seconds(96) == pytest.approx(0.15)
    # A single one takes 0.02 or 0.04 s, four take 0.06 s.
    assert [times.token_seconds(batch) for batch in (1, 4)] == pytest.approx([0.03, 0.06])
    with pytest.raises(InvalidScenario, match=r"profile: .*p\.csv has no yi on 2 a100; it has"):
        built(profile={**profile, "devices": 2}, traces=tmp_path)


def test_traces_that_are_not_there_are_asked_for(
    built: Callable[..., Built], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    part = {"arrivals": {"kind": "replay", "file": "azure/none.csv"}}
    monkeypatch.delenv("PILOTLIGHT_TRACES", raising=False)

    with pytest.raises(InvalidScenario) as unset:
        built(part=part)
    with pytest.raises(InvalidScenario) as missing:
        built(part=part, traces=tmp_path)

    assert "needs the published trace azure/none.csv, and PILOTLIGHT_TRACES is not set" in str(
        unset.value
    )
    assert unset.value.key == "workload.parts[0].arrivals.file"
    assert f"no file {tmp_path}/azure/none.csv is there" in str(missing.value)


@pytest.mark.parametrize(
    "error",
    [
        InvalidScenario("s.yaml", "it is wrong", key="a.b", hint="mend it"),
        InvalidWorkload("weights", "they are wrong", hint="mend them"),
    ],
)
def test_errors_come_back_from_other_processes_as_they_were(error: Exception) -> None:
    found = pickle.loads(pickle.dumps(error))

    assert type(found) is type(error)
    assert str(found) == str(error)
    assert vars(found) == vars(error)


@pytest.mark.parametrize("pattern", ["", "/", "**x", "none"])
def test_a_pattern_that_is_none_is_refused(
    built: Callable[..., Built], tmp_path: Path, pattern: str
) -> None:
    with pytest.raises(InvalidScenario) as caught:
        built(part={"arrivals": {"kind": "replay", "file": pattern}}, traces=tmp_path)

    assert caught.value.key == "workload.parts[0].arrivals.file"


def test_files_of_a_pattern_come_in_the_order_of_their_numbers(
    built: Callable[..., Built], tmp_path: Path
) -> None:
    for number in range(12):
        # Only client 2 sends anything, so that its model is the one that is asked for.
        rate = 10 if number == 2 else 0
        (tmp_path / f"chunk-{number}.csv").write_text(f"0,{rate},1,,0,0\n")
    arrivals = {
        "kind": "clients",
        "files": ["chunk-?.csv"],
        "requests_per_second": 5,
        "span_seconds": 600,
    }
    part = {"arrivals": arrivals, "service": {"kind": "tokens"}}

    with pytest.raises(InvalidScenario, match="there are 10 clients for 6 models"):
        built(part=part, traces=tmp_path)
    arrivals["files"] = ["chunk-[0-4].csv", "chunk-11.csv"]
    assert {each.model for each in built(part=part, traces=tmp_path).arrivals} == {"m-3"}
    arrivals["files"] = [str(tmp_path / "chunk-[2-7].csv")]
    assert {each.model for each in built(part=part).arrivals} == {"m-1"}


@pytest.mark.parametrize("evictor", ["lru", "value"])
def test_a_scenario_runs_with_all_that_goes_wrong(
    built: Callable[..., Built], evictor: str
) -> None:
    failures = [
        {"kind": "lose_node", "at_seconds": 5, "node": "node-1", "back_after_seconds": 5},
        {"kind": "cut_off", "at_seconds": 6, "node": "node-2", "seconds": 2},
        {"kind": "slow_channel", "at_seconds": 3, "channel": "disk@node-3", "factor": 0.1},
        {
            **{"kind": "slow_channel", "at_seconds": 4, "channel": "disk@node-4"},
            **{"factor": 0, "seconds": 2},
        },
    ]
    found = built(failures=failures, evictor=evictor)
    heap = EventHeap()
    network = Network(heap)
    simulation = Simulation(
        core=Core(estimator=StartEstimator(found.priors)),
        policy=ServerlessLLM(),
        heap=heap,
        delays=found.delays,
    )
    simulation.begin(found.models, found.nodes(heap, network, simulation))
    found.expect_failures(simulation, network)
    slow, stopped = found.channels["disk@node-3"], found.channels["disk@node-4"]

    simulation.feed(found.arrivals)
    heap.run_until(5.5)
    bandwidths = slow.bytes_per_second, stopped.bytes_per_second
    simulation.run(limit=1000.0)

    assert bandwidths == (1e8, 0.0)
    assert (slow.bytes_per_second, stopped.bytes_per_second) == (1e8, 1e9)
    assert simulation.nodes[NodeId("node-1")].incarnation == "node-1-3"
    assert len(simulation.ledger) > 20
    assert set(simulation.ledger.endings().tolist()) == {Ending.SERVED}


def test_an_evictor_is_a_plugin_by_its_name() -> None:
    value = load_scenario("quick", changes={"cluster.evictor": "value"}).build(1)
    nobodys = load_scenario("quick", changes={"cluster.evictor": "nobodys"})

    assert value.evictor is ValueEvictor
    with pytest.raises(PluginError, match=r"no pilotlight\.evictors plugin is called 'nobodys'"):
        nobodys.build(1)
