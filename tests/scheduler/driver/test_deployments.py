from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.message import Message

from pilotlight.scheduler.core.events import EvictAsked, FetchAsked, ModelDeleted, ModelDeployed
from pilotlight.scheduler.driver.deployments import Deployments, read_keep_alive
from pilotlight.scheduler.driver.execution_files import ExecutionFiles
from pilotlight.scheduler.driver.testing import WALL, Call, DriverCase, hang
from pilotlight.scheduler.errors import (
    InvalidModel,
    ModelUnavailable,
    NoNodes,
    StateUnavailable,
    UnknownCheckpoint,
    UnknownModel,
)
from pilotlight.scheduler.protocol import control_plane_pb2 as pb
from pilotlight.scheduler.store import PutModel, RemoveModel
from pilotlight.scheduler.testing.reports import copy_of, report_of
from pilotlight.scheduler.testing.rpc_errors import broken
from pilotlight.store_node.protocol import CheckpointStatus, store_node_pb2, wire


def spec(name: str = "m", path: str = "llama", **fields: Any) -> pb.ModelSpec:
    return pb.ModelSpec(name=name, path=path, engine="timed", **fields)


def held(reference: str = "llama", **fields: Any) -> CheckpointStatus:
    return copy_of(reference, **{"context_tokens": 512, "architecture": "llama", **fields})


async def send_nothing(call: Call) -> AsyncGenerator[Message]:
    yield store_node_pb2.FileBlock(data=b"{}")


async def be_away(call: Call) -> Message:
    raise broken()


class Deploying:
    """Deployments on a driver, with the controller's defaults."""

    def __init__(self, case: DriverCase, directory: Path) -> None:
        self.case = case
        self.wall = WALL
        case.channels.stream = send_nothing
        case.channels.answer = be_away
        self.files = ExecutionFiles(
            directory / "files", channels=case.channels, state=lambda: case.driver.core.state
        )
        store: Any = case.store
        self.deployments = Deployments(
            case.driver,
            store=store,
            channels=case.channels,
            files=self.files,
            keep_alive="45s",
            queue_limit=64,
            wall=lambda: self.wall,
        )

    async def refusal(self, given: pb.ModelSpec) -> str:
        """Return why a deployment is refused; nothing of it is left."""
        with pytest.raises((InvalidModel, UnknownCheckpoint, NoNodes)) as raised:
            await self.deployments.deploy(given)
        assert self.case.store.kept(PutModel) == []
        assert given.name not in self.case.driver.core.state.models
        return str(raised.value)


@pytest.fixture
def deploying(case: DriverCase, tmp_path: Path) -> Deploying:
    return Deploying(case, tmp_path)


async def test_a_model_is_written_down_and_then_known(deploying: Deploying) -> None:
    deploying.case.join("a", holds=[held()])

    model = await deploying.deployments.deploy(spec())

    assert (model.name, model.reference, model.path) == ("m", "llama", "llama")
    assert (model.layout_id, model.size_bytes) == ("layout-llama", 10**9)
    assert (model.architecture, model.context_tokens) == ("llama", 512)
    assert [put.model.name for put in deploying.case.store.kept(PutModel)] == ["m"]
    assert ModelDeployed(model=model) in [event for event, *_ in deploying.case.handled]


async def test_who_asked_may_go_while_it_is_written(deploying: Deploying) -> None:
    deploying.case.join("a", holds=[held()])
    await asyncio.sleep(0.1)
    deploying.case.store.seconds = 1.0
    asking = asyncio.ensure_future(deploying.deployments.deploy(spec()))
    await asyncio.sleep(0.5)

    asking.cancel()
    await asyncio.wait([asking])
    await asyncio.sleep(1.0)

    assert [put.model.name for put in deploying.case.store.kept(PutModel)] == ["m"]
    assert "m" in deploying.case.driver.core.state.models


@pytest.mark.parametrize(
    ("field", "value", "most"),
    [("min_replicas", 1001, 1000), ("max_replicas", 1001, 1000), ("devices", 2**31, 2**31 - 1)],
)
async def test_numbers_have_limits(deploying: Deploying, field: str, value: int, most: int) -> None:
    deploying.case.join("a", holds=[held()])
    numbers: Any = {field: value}

    refusal = await deploying.refusal(spec(**numbers))

    assert refusal == f"{field} = {value} is more than {most}"


async def test_files_of_a_deployment_stay_until_the_next_but_one(deploying: Deploying) -> None:
    deploying.case.join("a", holds=[held(execution_files=("config.json",))])
    folders: list[Path] = []
    for dtype in ("float16", "float32", "float64"):
        model = await deploying.deployments.deploy(spec(dtype=dtype))
        folders.append(deploying.files.directory(model))
        deploying.wall += 1.0

    # Requests that found the one before may still be reading them.
    assert [folder.exists() for folder in folders] == [False, True, True]


async def test_what_is_not_said_has_a_default(deploying: Deploying) -> None:
    deploying.case.join("a", holds=[held()], engines=["transformers"])

    model = await deploying.deployments.deploy(pb.ModelSpec(name="m", path="llama"))

    assert (model.engine, model.dtype, model.devices) == ("transformers", "auto", 1)
    assert (model.min_replicas, model.max_replicas, model.concurrency) == (0, 1, 0)
    assert (model.keep_alive_seconds, model.queue_limit, model.priority) == (45.0, 64, 0)
    assert model.deployed_at == WALL


async def test_what_is_said_counts(deploying: Deploying) -> None:
    deploying.case.join("a", holds=[held()], devices=4)

    model = await deploying.deployments.deploy(
        spec(
            devices=2,
            min_replicas=1,
            max_replicas=3,
            concurrency=8,
            keep_alive="load",
            priority=-1,
            queue_limit=5,
            context_tokens=100,
            dtype="float32",
            engine_options={"salt": "x"},
        )
    )

    assert (model.devices, model.min_replicas, model.max_replicas) == (2, 1, 3)
    assert (model.concurrency, model.keep_alive_seconds, model.priority) == (8, None, -1)
    assert (model.queue_limit, model.context_tokens, model.dtype) == (5, 100, "float32")
    assert model.engine_options == {"salt": "x"}


async def test_at_least_as_many_replicas_may_run_as_must(deploying: Deploying) -> None:
    deploying.case.join("a", holds=[held()])

    model = await deploying.deployments.deploy(spec(min_replicas=3))

    assert model.max_replicas == 3


@pytest.mark.parametrize("path", ["llama", "/models/llama", "/models/llama/", "/models/x/../llama"])
async def test_a_checkpoint_is_found_by_its_name_below_a_root_or_by_its_path(
    deploying: Deploying, path: str
) -> None:
    deploying.case.join("a", holds=[held()])

    model = await deploying.deployments.deploy(spec(path=path))

    assert model.reference == "llama"


async def test_the_files_that_clients_need_are_fetched_with_it(deploying: Deploying) -> None:
    deploying.case.join("a", holds=[held(execution_files=("config.json",))])

    model = await deploying.deployments.deploy(spec())

    assert (deploying.files.directory(model) / "config.json").exists()


async def test_a_model_is_deployed_even_if_its_files_can_t_be_had_now(
    deploying: Deploying,
) -> None:
    async def fail(call: Call) -> AsyncGenerator[Message]:
        yield store_node_pb2.FileBlock(data=b"")
        raise broken()

    deploying.case.channels.stream = fail
    deploying.case.join("a", holds=[held(execution_files=("config.json",))])

    model = await deploying.deployments.deploy(spec())

    assert model.name in deploying.case.driver.core.state.models


async def test_a_path_outside_of_all_roots_is_refused_with_what_there_is(
    deploying: Deploying,
) -> None:
    deploying.case.join("a", holds=[held("llama"), held("opt")])

    refusal = await deploying.refusal(spec(path="/elsewhere/llama"))

    assert refusal == (
        "no node can load '/elsewhere/llama': there is no checkpoint of that path below the"
        " model roots of a; they hold llama, opt; a did not answer"
    )


async def test_a_copy_that_was_broken_since_a_node_looked_is_refused(deploying: Deploying) -> None:
    deploying.case.join("a", holds=[held("llama")])
    broken_now = replace(held("llama"), quarantine="model.safetensors is cut short")

    async def answer(call: Call) -> Message:
        return wire.to_message(report_of("a", holds=[broken_now]), store_node_pb2.NodeReport)

    deploying.case.channels.answer = answer

    assert await deploying.refusal(spec(path="llama")) == (
        "no node can load 'llama': a says: model.safetensors is cut short"
    )


async def test_nodes_look_again_before_a_path_is_refused(deploying: Deploying) -> None:
    deploying.case.join("a")
    found = report_of("a", holds=[held()])

    async def answer(call: Call) -> Message:
        assert call.message.rescan
        return wire.to_message(found, store_node_pb2.NodeReport)

    deploying.case.channels.answer = answer

    model = await deploying.deployments.deploy(spec())

    assert model.reference == "llama"


async def test_a_node_that_does_not_answer_delays_a_refusal_no_longer_than_that(
    deploying: Deploying,
) -> None:
    deploying.case.join("a")
    deploying.case.channels.answer = hang

    refusal = await deploying.refusal(spec())

    assert "they hold no checkpoint" in refusal
    assert asyncio.get_running_loop().time() <= 10.1


async def test_a_copy_that_can_t_be_used_is_refused_with_the_reason(deploying: Deploying) -> None:
    broken_copy = held(quarantine="model.safetensors: its header is longer than the file")
    deploying.case.join("a", holds=[broken_copy])

    refusal = await deploying.refusal(spec())

    assert refusal == (
        "no node can load 'llama': a says: model.safetensors: its header is longer than the file"
        "; a did not answer"
    )


async def test_a_pickled_checkpoint_is_refused_with_the_way_out(deploying: Deploying) -> None:
    pickled = held(quarantine="pytorch_model.bin is a pickle; convert it with: pilotlight pack")
    deploying.case.join("a", holds=[pickled])

    refusal = await deploying.refusal(spec())

    assert "convert it with: pilotlight pack" in refusal


async def test_a_copy_that_can_be_used_is_taken_where_another_can_t(deploying: Deploying) -> None:
    deploying.case.join("a", holds=[held(quarantine="bad bytes")])
    deploying.case.join("b", holds=[held()])

    model = await deploying.deployments.deploy(spec())

    assert model.reference == "llama"


async def test_without_nodes_that_is_said(deploying: Deploying) -> None:
    refusal = await deploying.refusal(spec())

    assert refusal == "no node is connected; start one with: pilotlight node"


@pytest.mark.parametrize("name", ["", "-m", ".m", "a b", "m\n", "é", "a" * 129, "m;drop"])
async def test_a_name_that_would_hurt_is_refused(deploying: Deploying, name: str) -> None:
    deploying.case.join("a", holds=[held()])

    refusal = await deploying.refusal(spec(name))

    assert "can't name a model" in refusal


@pytest.mark.parametrize("name", ["m", "meta-llama/Llama-3.1-8B", "a:b_c", "0"])
async def test_names_of_models_as_they_are_known_elsewhere_are_taken(
    deploying: Deploying, name: str
) -> None:
    deploying.case.join("a", holds=[held()])

    assert (await deploying.deployments.deploy(spec(name))).name == name


@pytest.mark.parametrize(
    ("fields", "refusal"),
    [
        ({"path": ""}, "path is missing: where the checkpoint lies"),
        (
            {"min_replicas": 3, "max_replicas": 2},
            "max_replicas = 2 is less than min_replicas = 3",
        ),
        (
            {"engine": "vllm"},
            "no node that holds llama has the engine 'vllm'; they have timed",
        ),
        (
            {"devices": 3},
            "a replica is to have 3 devices, and no node that holds llama has more than 2",
        ),
        ({"keep_alive": "soon"}, "keep_alive: expected a duration"),
        ({"keep_alive": "-5s"}, "keep_alive: expected a duration"),
        ({"context_tokens": 1000}, "context_tokens = 1000 is more than the checkpoint's 512"),
    ],
)
async def test_what_makes_no_sense_is_refused_with_the_field_and_the_rule(
    deploying: Deploying, fields: dict[str, Any], refusal: str
) -> None:
    deploying.case.join("a", holds=[held()], devices=2)
    given = pb.ModelSpec(**{"name": "m", "path": "llama", "engine": "timed", **fields})

    assert (await deploying.refusal(given)).startswith(refusal)


async def test_devices_are_counted_where_the_checkpoint_lies(deploying: Deploying) -> None:
    deploying.case.join("a", holds=[held()], devices=1)
    deploying.case.join("b", devices=8)

    refusal = await deploying.refusal(spec(devices=2))

    assert refusal.endswith("no node that holds llama has more than 1")


async def test_an_engine_is_looked_for_where_the_checkpoint_lies(deploying: Deploying) -> None:
    deploying.case.join("a", holds=[held()], engines=["transformers"])
    deploying.case.join("b", engines=["timed"])

    refusal = await deploying.refusal(spec())

    assert refusal == "no node that holds llama has the engine 'timed'; they have transformers"


async def test_where_the_context_is_not_known_it_is_to_be_said(deploying: Deploying) -> None:
    deploying.case.join("a", holds=[held(context_tokens=0)])

    refusal = await deploying.refusal(spec())
    model = await deploying.deployments.deploy(spec("n", context_tokens=77))

    assert refusal.endswith("give --context-tokens")
    assert model.context_tokens == 77


async def test_a_deployment_that_can_t_be_written_does_not_happen(deploying: Deploying) -> None:
    deploying.case.join("a", holds=[held()])
    await deploying.case.settle()
    deploying.case.store.failure = StateUnavailable("the disk is full")

    with pytest.raises(StateUnavailable):
        await deploying.deployments.deploy(spec())

    assert deploying.case.driver.core.state.models == {}


async def test_a_model_may_be_deployed_again_otherwise(deploying: Deploying) -> None:
    deploying.case.join("a", holds=[held()])
    await deploying.deployments.deploy(spec())

    model = await deploying.deployments.deploy(spec(max_replicas=4))

    assert deploying.case.driver.core.state.models == {"m": model}


async def test_a_deleted_model_is_gone_with_its_files(deploying: Deploying) -> None:
    deploying.case.join("a", holds=[held(execution_files=("config.json",))])
    model = await deploying.deployments.deploy(spec())

    await deploying.deployments.delete("m")

    assert deploying.case.store.kept(RemoveModel) == [RemoveModel("m")]
    assert any(isinstance(event, ModelDeleted) for event, _ in deploying.case.handled)
    assert not deploying.files.directory(model).exists()


async def test_what_is_not_deployed_can_t_be_deleted(deploying: Deploying) -> None:
    deploying.case.deploy("opt")

    with pytest.raises(UnknownModel) as raised:
        await deploying.deployments.delete("m")

    assert str(raised.value) == "no model 'm' is deployed; deployed: opt"


@pytest.mark.parametrize(("verb", "event"), [("fetch", FetchAsked), ("evict", EvictAsked)])
async def test_dram_is_told_where_the_checkpoint_lies(
    deploying: Deploying, verb: str, event: type[Any]
) -> None:
    for node in ("a", "b"):
        deploying.case.join(node, holds=[held()])
    deploying.case.join("c")
    await deploying.deployments.deploy(spec())
    ask = getattr(deploying.deployments, verb)

    everywhere, there = await ask("m", ""), await ask("m", "b")

    assert (everywhere, there) == (["a", "b"], ["b"])
    asked: list[Any] = [e for e, _ in deploying.case.handled if isinstance(e, event)]
    assert [e.nodes for e in asked] == [("a", "b"), ("b",)]


@pytest.mark.parametrize("verb", ["fetch", "evict"])
async def test_dram_of_a_node_that_has_no_copy_is_refused(deploying: Deploying, verb: str) -> None:
    deploying.case.join("a", holds=[held()])
    deploying.case.join("c")
    await deploying.deployments.deploy(spec())
    ask = getattr(deploying.deployments, verb)

    for node in ("c", "nobody"):
        with pytest.raises(ModelUnavailable, match=f"no node {node} holds a copy"):
            await ask("m", node)
    with pytest.raises(UnknownModel):
        await ask("n", "")


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("load", None), ("60s", 60.0), ("5m", 300.0), ("2h", 7200.0), ("0", 0.0), ("1.5", 1.5)],
)
def test_keep_alive_is_a_duration_or_as_long_as_the_load(text: str, seconds: float | None) -> None:
    assert read_keep_alive(text) == seconds


@pytest.mark.parametrize("text", ["", "Load", "-1", "nan", "inf", "1 fortnight"])
def test_anything_else_is_no_keep_alive(text: str) -> None:
    with pytest.raises(InvalidModel, match=r"keep_alive: .*, or load"):
        read_keep_alive(text)
