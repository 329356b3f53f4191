"""`pilotlight up`: one command, a whole cluster."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import openai
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from pilotlight.scheduler.testing.local_cluster import LocalCluster
from pilotlight.store_node.engines.token_hash import expected_ids

pytestmark = pytest.mark.integration

SERVICES = ("pilotlight.scheduler.v1.ControlPlane", "pilotlight.store_node.v1.NodeRegistry")
PROMPT = (1, 2, 3)


@pytest.fixture(scope="module")
def up(shared_cluster: LocalCluster, spoken_model: Path) -> Iterator[LocalCluster]:
    """Yield a running cluster of one node with the models "spoken" and "a"."""
    shared_cluster.set_environ(PILOTLIGHT_ENGINES="[timed, transformers]")
    shared_cluster.start_up(f"--models={spoken_model.parent}")
    shared_cluster.wait_node("node-1", workers=4)
    shared_cluster.deploy("spoken", keep_alive="0.5s")
    shared_cluster.deploy("a", engine="timed", keep_alive="0.5s")
    yield shared_cluster
    assert shared_cluster.stop("up", signal.SIGINT) == 0
    assert shared_cluster.leftovers() == []


@pytest.fixture
def idle(up: LocalCluster) -> LocalCluster:
    """Return the cluster once no replica of earlier tests is left."""
    up.wait_idle()
    return up


def test_health_says_serving_for_all_services(up: LocalCluster) -> None:
    with grpc.insecure_channel(up.grpc_address) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        statuses = [
            stub.Check(health_pb2.HealthCheckRequest(service=service)).status
            for service in ("", *SERVICES)
        ]

    assert statuses == [health_pb2.HealthCheckResponse.SERVING] * 3


def test_reflection_lists_the_services(up: LocalCluster) -> None:
    with grpc.insecure_channel(up.grpc_address) as channel:
        make: Any = reflection_pb2_grpc.ServerReflectionStub
        request = reflection_pb2.ServerReflectionRequest(list_services="")
        [answer] = make(channel).ServerReflectionInfo(iter([request]))

    names = {service.name for service in answer.list_services_response.service}
    assert set(SERVICES) <= names


def test_the_openai_client_streams_from_a_model_without_a_replica(idle: LocalCluster) -> None:
    client = openai.OpenAI(base_url=f"{idle.http_url}/v1", api_key="none", max_retries=0)
    assert idle.replicas("spoken") == []

    def text() -> tuple[str, str | None, int]:
        stream = client.chat.completions.create(
            model="spoken",
            messages=[{"role": "user", "content": "Why is the sky blue?"}],
            max_tokens=12,
            temperature=0.0,
            stream=True,
            stream_options={"include_usage": True},
        )
        pieces, finish, usage = [], None, 0
        for chunk in stream:
            for choice in chunk.choices:
                pieces.append(choice.delta.content or "")
                finish = choice.finish_reason or finish
            usage = chunk.usage.completion_tokens if chunk.usage else usage
        return "".join(pieces), finish, usage

    cold, warm = text(), text()
    client.close()

    assert cold == warm
    assert (cold[1], cold[2]) in {("length", 12), ("stop", cold[2])}
    assert len(cold[0]) > 0
    assert [start.error for start in idle.starts("spoken")[:1]] == [""]


def test_the_openai_client_gets_several_answers_sampled_as_it_says(idle: LocalCluster) -> None:
    client = openai.OpenAI(base_url=f"{idle.http_url}/v1", api_key="none", max_retries=0)
    asked: dict[str, Any] = {
        "model": "a",
        "prompt": list(PROMPT),
        "n": 3,
        "max_tokens": 5,
        "temperature": 1.0,
        "seed": 7,
        # This engine follows neither, and takes both.
        "presence_penalty": 0.5,
        "frequency_penalty": -0.5,
        "logit_bias": {"5": -100, "999": 2.5},
        "extra_body": {
            "repetition_penalty": 1.5,
            "ignore_eos": True,
            "return_token_ids": True,
        },
    }

    whole = client.completions.create(**asked)
    streamed: dict[int, list[int]] = {0: [], 1: [], 2: []}
    usage = 0
    stream_options: Any = {"include_usage": True}
    for chunk in client.completions.create(**asked, stream=True, stream_options=stream_options):
        for choice in chunk.choices:
            streamed[choice.index] += (choice.model_extra or {})["token_ids"]
        usage = chunk.usage.completion_tokens if chunk.usage else usage
    client.close()

    expected = {
        index: list(expected_ids(PROMPT, 5, salt="a", seed=7 + index, vocabulary=1000))
        for index in range(3)
    }
    told = {choice.index: (choice.model_extra or {})["token_ids"] for choice in whole.choices}
    assert told == streamed == expected
    assert whole.usage is not None
    assert (whole.usage.prompt_tokens, whole.usage.completion_tokens, usage) == (3, 15, 15)


def test_the_model_list_names_what_is_deployed(up: LocalCluster) -> None:
    client = openai.OpenAI(base_url=f"{up.http_url}/v1", api_key="none", max_retries=0)

    names = {model.id for model in client.models.list()}
    client.close()

    assert {"a", "spoken"} <= names


def test_ten_first_requests_for_one_cold_model_cause_one_load(idle: LocalCluster) -> None:
    before = len(idle.starts("a"))
    idle.stub  # noqa: B018 # the connection is made before the clients come
    with ThreadPoolExecutor(10) as clients:
        answers = list(clients.map(lambda _: idle.ask("a", PROMPT, max_tokens=5), range(10)))

    reference = list(expected_ids(PROMPT, 5, salt="a", vocabulary=1000))
    assert [answer.ids for answer in answers] == [reference] * 10
    [start] = idle.starts("a")[: len(idle.starts("a")) - before]
    assert (start.tier, start.error) in {("ssd", ""), ("dram", "")}
    # All of it was read, once; or nothing, where it lay in DRAM.
    assert start.bytes_read == (start.size_bytes if start.tier == "ssd" else 0)


def test_after_its_keep_alive_the_replica_is_gone_and_its_slot_free(idle: LocalCluster) -> None:
    free = idle.nodes()["node-1"].devices_free
    idle.ask("a", PROMPT)
    during = idle.nodes()["node-1"].devices_free
    began = time.monotonic()
    idle.wait_idle("a")

    assert (free, during) == (2, 1)
    # A keep-alive of half a second, and a heartbeat of a second by which it is seen to be idle.
    assert time.monotonic() - began < 2.5
    assert idle.nodes()["node-1"].devices_free == 2


def test_the_verbs_show_what_runs(idle: LocalCluster) -> None:
    idle.deploy("b", engine="timed", keep_alive="1m")
    idle.ask("b", PROMPT)
    listed = [idle.run(verb, "-o", "json") for verb in ("models", "nodes", "replicas", "starts")]
    deleted = idle.run("delete", "b")

    assert [done.returncode for done in listed] == [0, 0, 0, 0]
    assert [done.stderr for done in listed] == ["", "", "", ""]
    assert '"node-1"' in listed[1].stdout
    assert '"ready"' in listed[2].stdout
    assert deleted.returncode == 0


def test_the_command_line_chats(up: LocalCluster) -> None:
    once = up.run("chat", "spoken", "Hello", "--max-tokens", "4", "--temperature", "0")
    told = up.run("chat", "spoken", "--max-tokens", "4", "--temperature", "0", stdin="Hello\n\n")

    assert (once.returncode, once.stderr) == (0, "")
    assert once.stdout == told.stdout
    assert len(once.stdout) > 1


def test_ctrl_c_ends_all_that_runs(cluster: LocalCluster, models: Path) -> None:
    running_cluster(cluster, models)

    code = cluster.stop("up", signal.SIGINT)

    assert code == 0
    assert cluster.leftovers() == []
    assert "Traceback" not in cluster.log("up")
    assert not (cluster.home("up") / "controller.json").exists()


def test_sigterm_ends_all_that_runs_also_in_the_midst_of_a_stream(
    cluster: LocalCluster, models: Path
) -> None:
    running_cluster(cluster, models)
    with ThreadPoolExecutor(1) as clients:
        asking = clients.submit(cluster.ask, "a", PROMPT, max_tokens=400)
        cluster.wait_for(lambda: bool(cluster.replicas("a", state="ready")), "a replica")

        code = cluster.stop("up")
        answer = asking.result(timeout=10.0)

    assert code == 0
    assert cluster.leftovers() == []
    assert answer.error or answer.was_cut or answer.finish_reason == "length"
    assert "Traceback" not in cluster.log("up")


def test_who_waits_for_a_start_when_it_ends_is_told_that_it_ends(
    cluster: LocalCluster, models: Path
) -> None:
    running_cluster(cluster, models)
    cluster.deploy("slow", "a", engine="timed", engine_options={"fail_bind": "stall"})
    with ThreadPoolExecutor(1) as clients:
        asking = clients.submit(cluster.ask, "slow", PROMPT)
        cluster.wait_for(lambda: bool(cluster.replicas("slow", state="starting")), "a start")

        code = cluster.stop("up", signal.SIGINT)
        answer = asking.result(timeout=10.0)

    assert code == 0
    assert (answer.status, answer.message) == (503, "the server is stopping")
    assert cluster.leftovers() == []


def test_a_killed_cluster_leaves_no_process(cluster: LocalCluster, models: Path) -> None:
    running_cluster(cluster, models)
    assert len(cluster.leftovers()) > 4

    cluster.kill("up")

    cluster.wait_for(lambda: not cluster.leftovers(), "nodes and workers to end", seconds=5.0)


@pytest.mark.parametrize("after_seconds", [0.0, 0.05, 0.2])
def test_a_cluster_killed_as_its_nodes_begin_leaves_no_process(
    cluster: LocalCluster, models: Path, after_seconds: float
) -> None:
    cluster.set_environ(PILOTLIGHT_ENGINES="[timed]")
    cluster.start_up(f"--models={models}", "--nodes=2")
    cluster.wait_for(lambda: len(cluster.leftovers()) >= 2, "a node to begin")

    time.sleep(after_seconds)
    cluster.kill("up")

    cluster.wait_for(lambda: not cluster.leftovers(), "nodes to end", seconds=5.0)


def running_cluster(cluster: LocalCluster, models: Path) -> None:
    """Start a cluster of two nodes with a replica."""
    cluster.set_environ(PILOTLIGHT_ENGINES="[timed]")
    cluster.start_up(f"--models={models}", "--nodes=2")
    for name in ("node-1", "node-2"):
        cluster.wait_node(name)
    cluster.deploy("a", engine="timed", engine_options={"decode_seconds": "0.05"})
    assert cluster.ask("a", PROMPT, max_tokens=1).status == 200
