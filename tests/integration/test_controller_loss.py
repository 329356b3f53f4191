"""Controllers that die, wait, are replaced, and find their cluster again."""

from __future__ import annotations

import signal
import socket
import sqlite3
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pilotlight.scheduler.testing.local_cluster import LocalCluster
from pilotlight.store_node.engines.token_hash import expected_ids

pytestmark = pytest.mark.integration

PROMPT = (1, 2, 3)


@pytest.fixture
def port() -> int:
    """Return a port that nobody listens on: nodes find a new controller at the old address."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        number: int = unused.getsockname()[1]
        return number


def reference(model: str, n_tokens: int = 8) -> list[int]:
    return list(expected_ids(PROMPT, n_tokens, salt=model, vocabulary=1000))


def start(cluster: LocalCluster, port: int, models: Path, *nodes: str) -> None:
    """Start a controller at a port, and nodes with two devices each."""
    cluster.start_controller(f"--listen=127.0.0.1:{port}")
    for node in nodes:
        cluster.spawn_node(node, models=models, engines=["timed", "slow"])
    for node in nodes:
        cluster.wait_node(node, workers=2)


def restart(cluster: LocalCluster, port: int, *nodes: str) -> None:
    cluster.start_controller(f"--listen=127.0.0.1:{port}")
    for node in nodes:
        cluster.wait_node(node)


def test_after_a_restart_models_and_nodes_are_back_and_replicas_are_adopted(
    cluster: LocalCluster, port: int, models: Path
) -> None:
    start(cluster, port, models, "n1", "n2")
    cluster.deploy("a", engine="timed", keep_alive="1h", engine_options={"salt": "x"})
    cluster.deploy("b", engine="timed", keep_alive="1h", min_replicas=1)
    cluster.deploy("c", engine="slow", min_replicas=1, engine_options={"bind_seconds": "3"})
    assert cluster.ask("a", PROMPT).status == 200
    cluster.wait_for(lambda: bool(cluster.replicas("b", state="ready")), "b")
    with ThreadPoolExecutor(1) as clients:
        asking = clients.submit(cluster.ask, "c", PROMPT)
        cluster.wait_for(lambda: bool(cluster.replicas("c", state="starting")), "c to start")
        before = {replica.replica_id: replica.model for replica in cluster.replicas()}
        models_before = cluster.models()

        cluster.kill("controller")
        cut = asking.result(timeout=10.0)
    restart(cluster, port, "n1", "n2")
    n_starts = len(cluster.starts())
    answers = {model: cluster.ask(model, PROMPT) for model in ("a", "b", "c")}

    # The process that held the client's connection is gone; so is the answer.
    assert cut.was_cut
    models_after = cluster.models()
    assert {name: model.spec for name, model in models_after.items()} == {
        name: model.spec for name, model in models_before.items()
    }
    assert answers["a"].ids == list(expected_ids(PROMPT, 8, salt="x", vocabulary=1000))
    assert (answers["b"].ids, answers["c"].ids) == (reference("b"), reference("c"))
    # The same replicas, without a further start; also the one that was on its way.
    after = {replica.replica_id: replica.model for replica in cluster.replicas()}
    assert after == before
    assert len(cluster.starts()) == n_starts
    assert sum(node.devices_free for node in cluster.nodes().values()) == 4 - 3
    assert all(replica.state == "ready" for replica in cluster.replicas())


def test_what_nobody_wants_any_more_is_stopped_after_a_restart(
    cluster: LocalCluster, port: int, models: Path
) -> None:
    start(cluster, port, models, "n1")
    for model in ("a", "b"):
        cluster.deploy(model, engine="timed", keep_alive="1h")
        assert cluster.ask(model, PROMPT).status == 200
    cluster.kill("controller")
    # An operator's hand, or a model that was deleted as the controller died.
    with sqlite3.connect(cluster.home("controller") / "state.db") as state:
        state.execute("delete from models where name = 'a'")
    state.close()

    restart(cluster, port, "n1")
    cluster.wait_for(lambda: not cluster.replicas("a"), "a to be stopped")

    assert set(cluster.models()) == {"b"}
    assert [replica.model for replica in cluster.replicas()] == ["b"]
    assert cluster.nodes()["n1"].devices_free == 1
    assert cluster.ask("b", PROMPT).ids == reference("b")


def test_after_a_restart_no_device_stays_held_for_what_is_gone(
    cluster: LocalCluster, port: int, models: Path
) -> None:
    start(cluster, port, models, "n1", "n2")
    cluster.deploy("a", engine="timed", keep_alive="1h")
    assert cluster.ask("a", PROMPT).status == 200
    [replica] = cluster.replicas("a")

    # Both die; the node comes back with nothing, another comes not at all.
    cluster.kill("controller")
    cluster.kill(replica.node_id)
    cluster.start_controller(f"--listen=127.0.0.1:{port}")
    cluster.start_node(replica.node_id, models=models, engines=["timed"])
    cluster.wait_for(lambda: not cluster.replicas(), "the lost replica to be forgotten")

    assert cluster.nodes()[replica.node_id].devices_free == 2
    assert cluster.ask("a", PROMPT).ids == reference("a")


def test_a_second_controller_waits_and_takes_over_at_once(
    cluster: LocalCluster, port: int, models: Path
) -> None:
    database = f"sqlite:///{cluster.folder}/shared.db"
    cluster.set_environ(PILOTLIGHT_DATABASE=database)
    start(cluster, port, models, "n1")
    cluster.deploy("a", engine="timed", keep_alive="1h")
    assert cluster.ask("a", PROMPT).status == 200
    first_replicas = [replica.replica_id for replica in cluster.replicas()]
    cluster.spawn_controller(name="second")
    cluster.wait_for(
        lambda: "another controller leads; waiting" in cluster.log("second"), "the second to wait"
    )

    cluster.kill("controller")
    began = time.monotonic()
    cluster.wait_doors("second")
    took_seconds = time.monotonic() - began
    # A second one has other doors; the node that is told of them finds its replicas adopted.
    cluster.stop("n1")
    cluster.start_node("n1", models=models, engines=["timed"])

    # Of a process of this machine it is seen that it has died: no lease is waited for.
    assert took_seconds < 3.0
    assert set(cluster.models()) == {"a"}
    assert cluster.ask("a", PROMPT).ids == reference("a")
    assert [replica.replica_id for replica in cluster.replicas()] != first_replicas


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_controller_that_waits_to_lead_can_be_stopped(
    cluster: LocalCluster, number: signal.Signals
) -> None:
    cluster.set_environ(PILOTLIGHT_DATABASE=f"sqlite:///{cluster.folder}/shared.db")
    cluster.start_controller()
    cluster.spawn_controller(name="second")
    cluster.wait_for(
        lambda: "another controller leads; waiting" in cluster.log("second"), "the second to wait"
    )

    code = cluster.stop("second", number)

    assert code == 0
    assert "Traceback" not in cluster.log("second")
    assert cluster.is_running("controller")


def test_a_controller_that_was_replaced_ends_with_a_clear_line(
    cluster: LocalCluster, port: int, models: Path
) -> None:
    start(cluster, port, models, "n1")
    cluster.deploy("a", engine="timed")
    assert cluster.ask("a", PROMPT).status == 200

    with sqlite3.connect(cluster.home("controller") / "state.db") as state:
        state.execute("update leadership set epoch = epoch + 1, holder = 'elsewhere:1:2:3'")
    state.close()
    code = cluster.wait_exit("controller")

    assert code == 1
    assert cluster.log("controller").splitlines()[-1] == "Error: epoch 1 has ended; epoch 2 leads"
    for word in ("Traceback", "Unexpected", "never awaited"):
        assert word not in cluster.log("controller")
    assert not (cluster.home("controller") / "controller.json").exists()


def test_a_controller_serves_on_while_its_state_is_out_of_reach(
    cluster: LocalCluster, port: int, models: Path
) -> None:
    cluster.set_environ(PILOTLIGHT_LEASE_SECONDS="1")
    start(cluster, port, models, "n1")
    cluster.deploy("a", engine="timed", keep_alive="1h")
    cluster.deploy("b", engine="timed", keep_alive="1h")
    assert cluster.ask("a", PROMPT).status == 200

    state = sqlite3.connect(cluster.home("controller") / "state.db", isolation_level=None)
    state.execute("begin immediate")
    with ThreadPoolExecutor(1) as clients:
        cold = clients.submit(cluster.ask, "b", PROMPT)
        cluster.wait_for(lambda: "does not answer" in cluster.log("controller"), "it to be noticed")
        time.sleep(1.5)  # Longer than the lease.
        warm = cluster.ask("a", PROMPT)
        assert not cold.done()
        state.execute("rollback")
        state.close()
        served = cold.result(timeout=30.0)

    assert warm.ids == reference("a")
    assert served.ids == reference("b")
    assert cluster.is_running("controller")
    assert "Traceback" not in cluster.log("controller")


def test_a_controller_that_slept_and_was_not_replaced_goes_on(
    cluster: LocalCluster, port: int, models: Path
) -> None:
    cluster.set_environ(PILOTLIGHT_LEASE_SECONDS="1")
    start(cluster, port, models, "n1")
    cluster.deploy("a", engine="timed", keep_alive="1h")
    assert cluster.ask("a", PROMPT).status == 200

    cluster.send_signal("controller", signal.SIGSTOP)
    time.sleep(2.5)
    cluster.send_signal("controller", signal.SIGCONT)
    answer = cluster.ask("a", PROMPT)

    assert answer.ids == reference("a")
    assert cluster.is_running("controller")
    assert len(cluster.starts("a")) == 1


def test_a_controller_ends_at_once_although_a_node_does_not_answer(
    cluster: LocalCluster, port: int, models: Path
) -> None:
    start(cluster, port, models, "n1")
    cluster.deploy("a", engine="timed")
    cluster.send_signal("n1", signal.SIGSTOP)
    with ThreadPoolExecutor(1) as clients:
        asking = clients.submit(cluster.ask, "a", PROMPT)
        cluster.wait_for(lambda: bool(cluster.replicas("a")), "a start to be sent")

        began = time.monotonic()
        code = cluster.stop("controller")
        took_seconds = time.monotonic() - began
        asking.result(timeout=10.0)

    assert code == 0
    # Clients have three seconds, and a second for what they have not read; calls one.
    assert took_seconds < 7.0
    assert "Traceback" not in cluster.log("controller")


def test_nodes_serve_on_while_their_controller_is_away(
    cluster: LocalCluster, port: int, models: Path
) -> None:
    start(cluster, port, models, "n1")
    cluster.deploy("a", engine="timed", keep_alive="1h")
    assert cluster.ask("a", PROMPT).status == 200
    [worker, *_] = cluster.workers("n1")

    cluster.stop("controller")
    time.sleep(0.5)

    assert cluster.is_running("n1")
    assert worker in cluster.workers("n1")
    restart(cluster, port, "n1")
    assert cluster.ask("a", PROMPT).ids == reference("a")
    assert cluster.starts("a")[0].replica_id == cluster.replicas("a")[0].replica_id
