"""A model that is deployed again, its files as they were or not."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pilotlight.scheduler.testing.local_cluster import LocalCluster
from pilotlight.store_node.testing.harness import make_checkpoint

pytestmark = pytest.mark.integration

PROMPT = (1, 2, 3)


@pytest.fixture
def roots(tmp_path: Path) -> Path:
    make_checkpoint(tmp_path / "models" / "a", seed=1)
    make_checkpoint(tmp_path / "other" / "a", seed=2)
    return tmp_path / "models"


@pytest.fixture
def running(cluster: LocalCluster, roots: Path) -> LocalCluster:
    cluster.start_controller("--exit-with-parent")
    cluster.start_node("n1", models=roots, engines=["timed"])
    cluster.deploy("a", engine="timed", keep_alive="1h")
    assert cluster.ask("a", PROMPT).status == 200
    return cluster


def test_a_replica_stays_where_its_files_are_what_they_were(running: LocalCluster) -> None:
    [before] = running.replicas("a")

    running.deploy("a", engine="timed", keep_alive="2h", priority=3)

    assert running.ask("a", PROMPT).status == 200
    [after] = running.replicas("a")
    assert after.replica_id == before.replica_id


def test_a_replica_of_weights_that_were_replaced_is_replaced(
    running: LocalCluster, roots: Path
) -> None:
    [before] = running.replicas("a")
    new = roots.parent / "other" / "a" / "model.safetensors"
    os.replace(new, roots / "a" / "model.safetensors")

    running.deploy("a", engine="timed", keep_alive="1h")
    running.wait_for(
        lambda: before.replica_id not in {r.replica_id for r in running.replicas("a")},
        "the replica to end",
    )

    assert running.ask("a", PROMPT).status == 200
    assert [replica.state for replica in running.replicas("a")] == ["ready"]
