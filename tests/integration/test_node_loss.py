"""Nodes that die, hang and come back, under a controller that goes on."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from pilotlight.scheduler.testing.http_answers import Answer
from pilotlight.scheduler.testing.local_cluster import LocalCluster
from pilotlight.store_node.engines.token_hash import expected_ids
from pilotlight.store_node.testing.harness import make_checkpoint

pytestmark = pytest.mark.integration

PROMPT = (1, 2, 3)
N_TOKENS = 60
SLOW = {"decode_seconds": "0.03"}
"""Options with which a request of 60 tokens takes two seconds."""


@pytest.fixture
def clients() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as clients:
        yield clients


@pytest.fixture
def nodes(cluster: LocalCluster, models: Path) -> LocalCluster:
    """Return a cluster of a controller and two nodes of two devices, each a process."""
    cluster.start_controller("--exit-with-parent")
    for name in ("n1", "n2"):
        cluster.spawn_node(name, models=models, engines=["timed"])
    for name in ("n1", "n2"):
        cluster.wait_node(name)
    return cluster


def begin(
    cluster: LocalCluster, clients: ThreadPoolExecutor, model: str, *, n_tokens: int = N_TOKENS
) -> tuple[Answer, Future[Answer]]:
    """Send a request, and wait for its first tokens."""
    answer = Answer()
    future = clients.submit(lambda: cluster.ask(model, PROMPT, max_tokens=n_tokens, answer=answer))
    cluster.wait_for(lambda: len(answer.ids) >= 3 or future.done(), "the first tokens")
    return answer, future


def reference(model: str, n_tokens: int = N_TOKENS) -> list[int]:
    return list(expected_ids(PROMPT, n_tokens, salt=model, vocabulary=1000))


def node_of(cluster: LocalCluster, model: str) -> str:
    [replica] = cluster.replicas(model, state="ready")
    return replica.node_id


def other(node: str) -> str:
    return {"n1": "n2", "n2": "n1"}[node]


def kill_workers(cluster: LocalCluster, node: str) -> None:
    for worker in cluster.workers(node):
        os.kill(worker, signal.SIGKILL)


def wait_down(cluster: LocalCluster, node: str, *, seconds: float = 5.0) -> None:
    cluster.wait_for(lambda: cluster.nodes()[node].state == "down", f"{node} down", seconds=seconds)


def test_a_killed_node_is_down_and_its_requests_go_on_elsewhere(
    nodes: LocalCluster, clients: ThreadPoolExecutor
) -> None:
    nodes.deploy("a", engine="timed", engine_options=SLOW)
    nodes.deploy("b", engine="timed", engine_options=SLOW)
    asked = [begin(nodes, clients, "a") for _ in range(3)]
    lost = node_of(nodes, "a")
    elsewhere = begin(nodes, clients, "b")
    moved = [*asked, elsewhere] if node_of(nodes, "b") == lost else asked
    seen = [len(answer.ids) for answer, _ in moved]

    nodes.kill(lost)
    wait_down(nodes, lost)
    answers = [future.result(timeout=30.0) for _, future in [*asked, elsewhere]]

    # They were in the midst of it, and their clients saw nothing of it.
    assert max(seen) < N_TOKENS
    assert [answer.ids for answer in answers] == [reference("a")] * 3 + [reference("b")]
    assert [answer.finish_reason for answer in answers] == ["length"] * 4
    assert {replica.node_id for replica in nodes.replicas()} == {other(lost)}
    assert nodes.nodes()[lost].devices_free == 0


def test_a_killed_node_that_alone_holds_a_model_is_a_clear_error(
    cluster: LocalCluster, tmp_path: Path, clients: ThreadPoolExecutor
) -> None:
    make_checkpoint(tmp_path / "alone" / "only")
    cluster.start_controller()
    cluster.start_node("n1", models=tmp_path / "alone", engines=["timed"])
    cluster.deploy("only", engine="timed", engine_options=SLOW)
    answer, future = begin(cluster, clients, "only")
    n_seen = len(answer.ids)
    began = time.monotonic()

    cluster.kill("n1")
    future.result(timeout=20.0)
    later = cluster.ask("only", PROMPT)

    assert time.monotonic() - began < 10.0
    assert answer.ids == reference("only")[: len(answer.ids)]
    assert len(answer.ids) >= n_seen
    for refused in (answer, later):
        assert refused.message.startswith("model 'only' can't be served: its only copies lie on n1")
        assert refused.error["code"] == "model_unavailable"
    assert (later.status, "retry-after" in later.headers) == (503, True)


def test_a_node_that_comes_back_under_its_name_serves_again(
    nodes: LocalCluster, models: Path
) -> None:
    nodes.deploy("a", engine="timed")
    assert nodes.ask("a", PROMPT).status == 200
    lost = node_of(nodes, "a")
    before = nodes.nodes()[lost].incarnation

    nodes.kill(lost)
    nodes.start_node(lost, models=models, engines=["timed"])

    node = nodes.nodes()[lost]
    assert (node.state, node.devices_free) == ("up", 2)
    assert node.incarnation != before
    assert nodes.ask("a", PROMPT, max_tokens=8).ids == reference("a", 8)


def test_a_node_that_comes_back_elsewhere_while_a_command_is_on_its_way_serves(
    cluster: LocalCluster, clients: ThreadPoolExecutor, models: Path
) -> None:
    cluster.start_controller("--exit-with-parent")
    cluster.start_node("n1", models=models, engines=["timed"])
    cluster.deploy("a", engine="timed")
    cluster.send_signal("n1", signal.SIGSTOP)
    asking = clients.submit(cluster.ask, "a", PROMPT)
    cluster.wait_for(lambda: bool(cluster.replicas("a")), "a start to be sent")

    cluster.kill("n1")
    cluster.start_node("n1", models=models, engines=["timed"])
    answer = asking.result(timeout=30.0)

    assert answer.ids == reference("a", len(answer.ids))
    assert answer.status == 200
    assert cluster.is_running("controller")
    assert "Traceback" not in cluster.log("controller")


def test_a_name_can_t_be_used_twice(nodes: LocalCluster, models: Path, tmp_path: Path) -> None:
    nodes.spawn("impostor", "node", "--name=n1", f"--controller={nodes.grpc_address}")

    nodes.wait_for(
        lambda: (
            "a node named n1 is connected; give this one another --name" in nodes.log("impostor")
        ),
        "the impostor to be refused",
    )

    assert nodes.is_running("n1")
    assert nodes.nodes()["n1"].state == "up"
    assert nodes.stop("impostor") == 0


def test_a_node_that_hangs_is_down_and_comes_back_with_nothing_twice(
    nodes: LocalCluster, clients: ThreadPoolExecutor
) -> None:
    nodes.deploy("a", engine="timed", engine_options=SLOW)
    answer, future = begin(nodes, clients, "a")
    hung = node_of(nodes, "a")

    nodes.send_signal(hung, signal.SIGSTOP)
    # Three heartbeats of a second, and a moment.
    wait_down(nodes, hung)
    future.result(timeout=20.0)
    meanwhile = node_of(nodes, "a")
    nodes.send_signal(hung, signal.SIGCONT)
    nodes.wait_node(hung)
    nodes.wait_for(lambda: nodes.nodes()[hung].devices_free == 2, "its devices to be free")

    assert (answer.ids, answer.finish_reason) == (reference("a"), "length")
    assert meanwhile == other(hung)
    # What it still ran is stopped: the model has as many replicas as it may.
    assert [replica.node_id for replica in nodes.replicas("a")] == [other(hung)]
    assert nodes.ask("a", PROMPT, max_tokens=8).ids == reference("a", 8)


def test_a_node_that_hangs_for_a_moment_is_not_given_up(
    nodes: LocalCluster, clients: ThreadPoolExecutor
) -> None:
    nodes.deploy("a", engine="timed", engine_options=SLOW)
    answer, future = begin(nodes, clients, "a")
    hung = node_of(nodes, "a")

    nodes.send_signal(hung, signal.SIGSTOP)
    time.sleep(1.0)
    nodes.send_signal(hung, signal.SIGCONT)
    future.result(timeout=20.0)

    assert (answer.ids, answer.finish_reason) == (reference("a"), "length")
    assert [start.node_id for start in nodes.starts("a")] == [hung]


def test_a_killed_worker_costs_its_requests_nothing(
    nodes: LocalCluster, clients: ThreadPoolExecutor
) -> None:
    nodes.deploy("a", engine="timed", engine_options=SLOW)
    answer, future = begin(nodes, clients, "a")
    node = node_of(nodes, "a")

    kill_workers(nodes, node)
    future.result(timeout=20.0)

    assert (answer.ids, answer.finish_reason) == (reference("a"), "length")
    assert nodes.nodes()[node].state == "up"
    nodes.wait_for(
        lambda: sum(node.devices_free for node in nodes.nodes().values()) == 3, "a free device"
    )


def test_a_request_whose_worker_dies_twice_is_given_up(
    nodes: LocalCluster, clients: ThreadPoolExecutor
) -> None:
    nodes.deploy("a", engine="timed", engine_options=SLOW)
    answer, future = begin(nodes, clients, "a", n_tokens=200)

    kill_workers(nodes, node_of(nodes, "a"))
    nodes.wait_for(lambda: len(nodes.starts("a")) == 2, "another replica")
    n_seen = len(answer.ids)
    nodes.wait_for(lambda: len(answer.ids) > n_seen, "it to go on there")
    kill_workers(nodes, node_of(nodes, "a"))
    future.result(timeout=20.0)

    assert answer.error["code"] == "request_lost"
    assert "was lost 2 times" in answer.message
    assert answer.ids == reference("a", 200)[: len(answer.ids)]
