from __future__ import annotations

import pytest

from pilotlight.estimators import Topology
from pilotlight.estimators.testing import ViewCase


def test_bytes_from_ssd_cross_the_disk_and_the_link() -> None:
    case = ViewCase()
    case.node(ssd=[case.model()], disk="disk", link="link")
    topology = Topology(case.view())

    assert topology.from_disk("disk", "node-0").channels == ("disk", "link")
    assert topology.from_dram("node-0").channels == ("link",)


def test_a_path_is_as_fast_as_its_slowest_hop() -> None:
    case = ViewCase()
    case.node(ssd=[case.model()], disk="disk", link="link")
    path = Topology(case.view()).from_disk("disk", "node-0")

    assert path.bytes_per_second({"disk": 2.0e9, "link": 5.0e9}) == 2.0e9
    assert path.latency_seconds({"disk": 0.25, "link": 0.5}) == 0.75


def test_memory_without_a_link_costs_nothing_to_cross() -> None:
    case = ViewCase()
    case.node(disk="disk")

    path = Topology(case.view()).from_dram("node-0")

    assert path.channels == ()
    assert path.bytes_per_second({}) == float("inf")


def test_a_node_has_the_disks_that_its_copies_lie_on() -> None:
    case = ViewCase()
    models = [case.model(), case.model()]
    case.node(disk="unused")
    case.node(ssd=models, disk="")
    case.node(ssd=models, disk="fast", other_disks={models[1]: "slow"})
    topology = Topology(case.view())

    assert [topology.disks(f"node-{row}") for row in range(3)] == [[], [], ["fast", "slow"]]


@pytest.mark.parametrize(("channel", "nodes"), [("shared", ["node-0", "node-2"]), ("gone", [])])
def test_nodes_that_share_a_disk_are_found_by_it(channel: str, nodes: list[str]) -> None:
    case = ViewCase()
    model = case.model()
    case.node(ssd=[model], disk="shared")
    case.node(ssd=[model])
    case.node(ssd=[model], disk="shared")

    assert Topology(case.view()).sharers(channel) == nodes
