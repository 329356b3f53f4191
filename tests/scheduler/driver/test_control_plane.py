from __future__ import annotations

import asyncio
import random
from pathlib import Path
from typing import Any, NoReturn

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from prometheus_client import CollectorRegistry

from pilotlight.scheduler.core.actions import Publish
from pilotlight.scheduler.driver.control_plane import ControlPlane
from pilotlight.scheduler.driver.deployments import Deployments
from pilotlight.scheduler.driver.execution_files import ExecutionFiles
from pilotlight.scheduler.driver.testing import WALL, DriverCase
from pilotlight.scheduler.errors import QueueFull
from pilotlight.scheduler.gateway.metrics import GatewayMetrics
from pilotlight.scheduler.gateway.testing import Script, ScriptedBackend
from pilotlight.scheduler.gateway.text.text_generator import TextGenerator
from pilotlight.scheduler.gateway.text.text_models import TextModels
from pilotlight.scheduler.protocol import control_plane_pb2 as pb
from pilotlight.scheduler.store import PutStart, StartRecord
from pilotlight.scheduler.testing.reports import copy_of
from pilotlight.store_node.protocol import ModelId, ReplicaState

DETAILS: tuple[Any, ...] = (error_details_pb2.ErrorInfo, error_details_pb2.RetryInfo)


class Aborted(Exception):
    """What `abort_with_status` raises to end a call."""


class Context:
    """What the service uses of a call's context."""

    status: Any = None

    async def abort_with_status(self, status: grpc.Status) -> NoReturn:
        self.status = status
        raise Aborted

    def details(self) -> list[Any]:
        """Return the google.rpc details of the status."""
        [(key, value)] = self.status.trailing_metadata
        assert key == "grpc-status-details-bin"
        return [
            kind.FromString(packed.value)
            for packed in status_pb2.Status.FromString(value).details
            for kind in DETAILS
            if packed.Is(kind.DESCRIPTOR)
        ]


class Asking:
    """The service on a driver, called without a wire."""

    def __init__(self, case: DriverCase, directory: Path) -> None:
        self.case = case
        self.context: Any = Context()
        self.backend = ScriptedBackend()
        store: Any = case.store
        files = ExecutionFiles(
            directory / "files", channels=case.channels, state=lambda: case.driver.core.state
        )
        self.service = ControlPlane(
            case.driver,
            deployments=Deployments(
                case.driver,
                store=store,
                channels=case.channels,
                files=files,
                keep_alive="45s",
                queue_limit=64,
                wall=lambda: WALL,
            ),
            store=store,
            generator=TextGenerator(
                self.backend,
                models=TextModels(),
                metrics=GatewayMetrics(CollectorRegistry()),
                rng=random.Random(1),
            ),
            clock=asyncio.get_running_loop().time,
        )

    async def refused(self, call: Any) -> grpc.StatusCode:
        """Return the status that a call ends with."""
        with pytest.raises(Aborted):
            await call
        code: grpc.StatusCode = self.context.status.code
        return code


@pytest.fixture
async def asking(case: DriverCase, tmp_path: Path) -> Asking:
    return Asking(case, tmp_path)


def start(number: int) -> PutStart:
    return PutStart(
        StartRecord(
            replica_id=f"r1-{number}",
            decision_id=f"d1-{number}",
            model="m",
            node_id="a",
            tier="ssd",
            size_bytes=10**9,
            bytes_read=10**9,
            # Two at a time begin at once.
            started_at=WALL + number // 2,
            ready_seconds=1.0,
        )
    )


async def test_models_are_listed_by_name_a_page_at_a_time(asking: Asking) -> None:
    for name in ("d", "b", "e", "a", "c"):
        asking.case.deploy(name)

    names: list[list[str]] = []
    token = ""
    while True:
        page = await asking.service.ListModels(
            pb.ListModelsRequest(page_size=2, page_token=token), asking.context
        )
        names.append([model.spec.name for model in page.models])
        token = page.next_page_token
        if not token:
            break

    assert names == [["a", "b"], ["c", "d"], ["e"]]


async def test_a_page_that_is_just_full_is_the_last(asking: Asking) -> None:
    for name in ("a", "b"):
        asking.case.deploy(name)

    page = await asking.service.ListModels(pb.ListModelsRequest(page_size=2), asking.context)

    assert page.next_page_token == ""


async def test_what_comes_between_two_pages_loses_nothing(asking: Asking) -> None:
    for name in ("a", "b", "d"):
        asking.case.deploy(name)
    first = await asking.service.ListModels(pb.ListModelsRequest(page_size=2), asking.context)

    asking.case.deploy("aa")
    asking.case.deploy("c")
    second = await asking.service.ListModels(
        pb.ListModelsRequest(page_size=2, page_token=first.next_page_token), asking.context
    )

    assert [model.spec.name for model in second.models] == ["c", "d"]


async def test_a_page_has_no_more_rows_than_may_be(asking: Asking) -> None:
    for number in range(1002):
        asking.case.deploy(f"m{number:04d}")

    page = await asking.service.ListModels(pb.ListModelsRequest(page_size=5000), asking.context)
    default = await asking.service.ListModels(pb.ListModelsRequest(), asking.context)

    assert (len(page.models), len(default.models)) == (1000, 100)


async def test_a_model_is_listed_with_what_runs_and_waits_of_it(asking: Asking) -> None:
    asking.case.deploy("m", keep_alive_seconds=None, min_replicas=1, max_replicas=2)
    asking.case.join("a", holds=[copy_of("m")])
    asking.case.join("b", holds=[copy_of("m", in_dram=True)], devices=2)
    asking.case.demand("m", 3)
    await asyncio.sleep(1.0)
    first, _second = asking.case.replicas
    asking.case.report(first, ReplicaState.READY)

    [model] = (await asking.service.ListModels(pb.ListModelsRequest(), asking.context)).models

    assert (model.replicas_ready, model.replicas_starting, model.waiting) == (1, 1, 3)
    assert (list(model.ssd_nodes), list(model.dram_nodes)) == (["a", "b"], ["b"])
    assert (model.spec.keep_alive, model.spec.min_replicas, model.spec.max_replicas) == (
        "load",
        1,
        2,
    )
    assert (model.reference, model.size_bytes, model.refusal) == ("m", 10**9, "")


async def test_a_model_whose_starts_fail_is_listed_with_the_reason(asking: Asking) -> None:
    asking.case.deploy("m")
    asking.case.join("a", holds=["m"])
    asking.case.demand("m", 1)
    await asyncio.sleep(0.5)
    asking.case.report(asking.case.replicas[0], ReplicaState.FAILED, error="no lm_head.weight")

    [model] = (await asking.service.ListModels(pb.ListModelsRequest(), asking.context)).models

    assert model.refusal == "a: no lm_head.weight"


async def test_a_node_is_listed_with_what_it_has(asking: Asking) -> None:
    bad = copy_of("bad", quarantine="its header is longer than the file")
    asking.case.join("a", holds=[copy_of("m", in_dram=True), bad], devices=2)
    asking.case.deploy("m")
    asking.case.demand("m", 1)
    await asyncio.sleep(2.0)

    [node] = (await asking.service.ListNodes(pb.ListNodesRequest(), asking.context)).nodes

    assert (node.node_id, node.incarnation, node.state) == ("a", "a-1", "up")
    assert (node.devices, node.devices_free, node.checkpoints) == (2, 1, 1)
    assert node.dram_used_bytes == 10**9
    assert node.disk_bytes_per_second == 1e9
    assert node.silent_seconds == pytest.approx(2.0, abs=0.01)
    assert list(node.quarantined) == ["bad: its header is longer than the file"]


async def test_a_replica_is_listed_from_its_reservation_on(asking: Asking) -> None:
    asking.case.store.seconds = 1.0
    asking.case.deploy("m")
    asking.case.join("a", holds=["m"])
    asking.case.demand("m", 1)

    states: list[str] = []
    for _ in range(2):
        await asyncio.sleep(0.7)
        answer = await asking.service.ListReplicas(pb.ListReplicasRequest(), asking.context)
        states += [replica.state for replica in answer.replicas]
    asking.case.report(asking.case.replicas[0], ReplicaState.READY)
    [replica] = (
        await asking.service.ListReplicas(pb.ListReplicasRequest(), asking.context)
    ).replicas

    assert states == ["reserved", "starting"]
    assert (replica.state, replica.model, replica.node_id) == ("ready", "m", "a")
    assert replica.load_progress == 1.0
    assert replica.age_seconds == pytest.approx(1.4, abs=0.01)


async def test_starts_are_listed_newest_first_each_once(asking: Asking) -> None:
    asking.case.store.applied += [start(number) for number in range(5)]

    replicas: list[str] = []
    token, n_pages = "", 0
    while n_pages == 0 or token:
        page = await asking.service.ListStarts(
            pb.ListStartsRequest(page_size=2, page_token=token), asking.context
        )
        replicas += [each.replica_id for each in page.starts]
        token, n_pages = page.next_page_token, n_pages + 1

    assert replicas == ["r1-4", "r1-3", "r1-2", "r1-1", "r1-0"]
    assert n_pages == 3


@pytest.mark.parametrize("token", ["nonsense", "x/r1", "/"])
async def test_a_token_that_no_page_has_is_refused(asking: Asking, token: str) -> None:
    request = pb.ListStartsRequest(page_token=token)

    code = await asking.refused(asking.service.ListStarts(request, asking.context))

    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert asking.context.status.details == f"no such page: {token!r}"


async def test_an_expected_error_is_a_status_with_details(asking: Asking) -> None:
    request = pb.DeleteModelRequest(name="nobody")

    code = await asking.refused(asking.service.DeleteModel(request, asking.context))

    assert code is grpc.StatusCode.NOT_FOUND
    assert asking.context.status.details == "no model 'nobody' is deployed; none is deployed"
    [info] = asking.context.details()
    assert (info.reason, info.domain) == ("UnknownModel", "scheduler.pilotlight")


@pytest.mark.parametrize(
    ("spec", "code", "reason"),
    [
        (pb.ModelSpec(name="m"), grpc.StatusCode.INVALID_ARGUMENT, "InvalidModel"),
        (pb.ModelSpec(name="m", path="x"), grpc.StatusCode.FAILED_PRECONDITION, "NoNodes"),
    ],
)
async def test_a_deployment_that_is_refused_says_why(
    asking: Asking, spec: pb.ModelSpec, code: grpc.StatusCode, reason: str
) -> None:
    call = asking.service.DeployModel(pb.DeployModelRequest(spec=spec), asking.context)

    assert await asking.refused(call) is code
    assert [info.reason for info in asking.context.details()] == [reason]


async def test_a_refusal_fits_into_its_metadata_whatever_was_asked_for(asking: Asking) -> None:
    asking.case.join("a")
    spec = pb.ModelSpec(name="m", path="x" * 100_000, engine="e" * 100_000)

    call = asking.service.DeployModel(pb.DeployModelRequest(spec=spec), asking.context)
    code = await asking.refused(call)

    assert code is grpc.StatusCode.NOT_FOUND
    # The status carries the message twice, in 8 KiB at most.
    assert 256 < len(asking.context.status.details) <= 2_000


async def test_a_deployed_model_is_answered_as_it_is_listed(asking: Asking) -> None:
    asking.case.join("a", holds=[copy_of("llama", context_tokens=512)])
    spec = pb.ModelSpec(name="m", path="llama", engine="timed")

    model = await asking.service.DeployModel(pb.DeployModelRequest(spec=spec), asking.context)
    listed = await asking.service.ListModels(pb.ListModelsRequest(), asking.context)

    assert [model] == list(listed.models)
    assert (model.spec.keep_alive, model.spec.context_tokens) == ("45s", 512)


@pytest.mark.integration  # a tokenizer is looked for in a thread
async def test_a_full_line_says_when_to_come_back(asking: Asking, tmp_path: Path) -> None:
    error = QueueFull("m", waiting=3, retry_after_seconds=2.5)
    asking.backend.deploy("m", tmp_path, Script(error=error))
    request = pb.GenerateRequest(model="m", tokens=pb.TokenPrompt(ids=[1, 2]))

    async def generate() -> None:
        async for _ in asking.service.Generate(request, asking.context):
            pass

    assert await asking.refused(generate()) is grpc.StatusCode.RESOURCE_EXHAUSTED
    info, retry = asking.context.details()
    assert info.reason == "QueueFull"
    assert retry.retry_delay.ToTimedelta().total_seconds() == 2.5


@pytest.mark.integration  # a tokenizer is looked for in a thread
async def test_generated_text_is_streamed(asking: Asking, tmp_path: Path) -> None:
    asking.backend.deploy("m", tmp_path, Script(token_ids=[5, 6, 7]))
    request = pb.GenerateRequest(model="m", tokens=pb.TokenPrompt(ids=[1, 2]), max_tokens=3)

    answers = [answer async for answer in asking.service.Generate(request, asking.context)]

    assert [list(answer.token_ids) for answer in answers] == [[5], [6], [7]]
    assert answers[-1].finish_reason == "stop"
    assert (answers[-1].usage.prompt_tokens, answers[-1].usage.completion_tokens) == (2, 3)


async def test_what_happens_is_streamed_to_who_watches(asking: Asking) -> None:
    events = asking.service.WatchEvents(pb.WatchEventsRequest(), asking.context)
    first = asyncio.ensure_future(anext(aiter(events)))
    await asking.case.settle()

    asking.case.join("a")
    event = await first

    assert (event.kind, event.node_id, event.model) == ("node_up", "a", "")
    assert event.at == pytest.approx(WALL, abs=1.0)
    await events.aclose()  # type: ignore[attr-defined]  # it is a generator


async def test_last_lines_of_a_dead_worker_are_streamed_too(asking: Asking) -> None:
    events = asking.service.WatchEvents(pb.WatchEventsRequest(), asking.context)
    first = asyncio.ensure_future(anext(aiter(events)))
    await asking.case.settle()

    said = Publish(kind="replica_failed", text="worker 1 ended", log_tail="last words")
    asking.case.driver.watchers.publish(said, at=1.0)

    assert (await first).log_tail == "last words"
    await events.aclose()  # type: ignore[attr-defined]  # it is a generator


async def test_dram_is_filled_and_emptied_on_demand(asking: Asking) -> None:
    asking.case.join("a", holds=["m"])
    asking.case.deploy("m")

    fetched = await asking.service.FetchModel(pb.FetchModelRequest(name="m"), asking.context)
    evicted = await asking.service.EvictModel(pb.EvictModelRequest(name="m"), asking.context)
    await asyncio.sleep(1.0)

    assert list(fetched.node_ids) == list(evicted.node_ids) == ["a"]
    calls = [call.method for call in asking.case.channels.calls]
    assert calls == ["FetchCheckpoint", "EvictCheckpoint"]
    assert ModelId("m") in asking.case.driver.core.state.models
