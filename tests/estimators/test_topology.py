from __future__ import annotations

import pytest

from pilotlight.estimators import Topology
from pilotlight.estimators.testing import ViewCase


def test_bytes_from_ssd_cross_the_disk_and_the_link() -> None:
    case = ViewCase()
    case.node(disk="disk", link="link")
    topology = Topology(case.view())

    from_ssd, from_dram = topology.from_ssd("node-0"), topology.from_dram("node-0")

    assert from_ssd is not None
    assert from_ssd.channels == ("disk", "link")
    assert from_dram.channels == ("link",)


def test_a_path_is_as_fast_as_its_slowest_hop() -> None:
    case = ViewCase()
    case.node(disk="disk", link="link")
    path = Topology(case.view()).from_ssd("node-0")

    assert path is not None
    assert path.bytes_per_second({"disk": 2.0e9, "link": 5.0e9}) == 2.0e9
    assert path.latency_seconds({"disk": 0.25, "link": 0.5}) == 0.75


def test_memory_without_a_link_costs_nothing_to_cross() -> None:
    case = ViewCase()
    case.node(disk="disk")

    path = Topology(case.view()).from_dram("node-0")

    assert path.channels == ()
    assert path.bytes_per_second({}) == float("inf")


def test_a_node_without_a_disk_has_no_way_from_ssd() -> None:
    case = ViewCase()
    case.node(disk="")

    assert Topology(case.view()).from_ssd("node-0") is None


@pytest.mark.parametrize(("channel", "nodes"), [("shared", ["node-0", "node-2"]), ("gone", [])])
def test_nodes_that_share_a_disk_are_found_by_it(channel: str, nodes: list[str]) -> None:
    case = ViewCase()
    case.node(disk="shared")
    case.node()
    case.node(disk="shared")

    assert Topology(case.view()).sharers(channel) == nodes
