from __future__ import annotations

import os
from pathlib import Path

import pytest

from pilotlight.store_node.errors import InvalidName, NameTaken
from pilotlight.store_node.shell.identity import NodeHome, disk_channel, new_incarnation


def test_a_name_is_taken_while_its_node_runs(tmp_path: Path) -> None:
    first = NodeHome.claim(tmp_path, "node-1")

    with pytest.raises(NameTaken, match="node-1"):
        NodeHome.claim(tmp_path, "node-1")
    first.release()

    second = NodeHome.claim(tmp_path, "node-1")
    assert second.path == tmp_path / "nodes" / "node-1"
    second.release()


def test_unnamed_nodes_of_one_home_get_different_names_and_the_same_again(tmp_path: Path) -> None:
    nodes = [NodeHome.claim(tmp_path) for _ in range(3)]
    names = [node.node_id for node in nodes]
    nodes[1].release()

    again = NodeHome.claim(tmp_path)

    assert len(set(names)) == 3
    assert again.node_id == names[1]
    for node in (nodes[0], nodes[2], again):
        node.release()


@pytest.mark.parametrize("name", ["../up", "a/b", "-x", ".", "a" * 64, "é", "a b"])
def test_refuses_names_that_are_no_file_names(tmp_path: Path, name: str) -> None:
    with pytest.raises(InvalidName):
        NodeHome.claim(tmp_path, name)

    assert not (tmp_path / "nodes").exists()


def test_no_two_incarnations_are_equal() -> None:
    assert new_incarnation() != new_incarnation()


def test_a_disk_has_one_name_on_a_host() -> None:
    assert disk_channel(os.makedev(8, 1)) == disk_channel(os.makedev(8, 1))
    assert disk_channel(os.makedev(8, 1)) != disk_channel(os.makedev(8, 2))
