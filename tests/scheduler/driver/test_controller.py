"""A whole controller in the test's own process, without nodes."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from pilotlight.process.errors import (
    AddressUnavailable,
    InvalidAddress,
    PluginError,
    SettingsError,
)
from pilotlight.process.quantities import Seconds
from pilotlight.process.settings import read_settings
from pilotlight.scheduler.core.recording import read_recording
from pilotlight.scheduler.driver.controller import Controller, Doors
from pilotlight.scheduler.driver.deployments import read_keep_alive
from pilotlight.scheduler.driver.settings import KIND, ControllerSettings, HttpSettings
from pilotlight.scheduler.errors import InvalidModel, StateUnavailable
from pilotlight.scheduler.protocol import control_plane_pb2 as pb
from pilotlight.scheduler.protocol import control_plane_pb2_grpc as rpc
from pilotlight.scheduler.store import StateStore, sqlite_url, upgrade

pytestmark = pytest.mark.integration

CONTROL_PLANE = "pilotlight.scheduler.v1.ControlPlane"
NODE_REGISTRY = "pilotlight.store_node.v1.NodeRegistry"


def settings(**fields: Any) -> ControllerSettings:
    free: dict[str, Any] = {
        "listen": "127.0.0.1:0",
        "http": HttpSettings(listen="127.0.0.1:0"),
        "lease_seconds": Seconds(2.0),
    }
    return ControllerSettings(**{**free, **fields})


@asynccontextmanager
async def running(home: Path, **fields: Any) -> AsyncGenerator[Doors]:
    async with Controller(settings(**fields), home=home).running() as doors:
        yield doors


@asynccontextmanager
async def other_leader(home: Path) -> AsyncGenerator[StateStore]:
    """Lead as a process of another machine."""
    url = sqlite_url(home / "state.db")
    upgrade(url)
    store = StateStore(url)
    await store.open()
    await store.acquire("elsewhere:1:2:3", 60.0)
    yield store
    await store.close()


@pytest.fixture
def taken() -> Iterator[int]:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        yield listening.getsockname()[1]


async def test_health_says_serving(tmp_path: Path) -> None:
    async with running(tmp_path) as doors, grpc.aio.insecure_channel(str(doors.grpc)) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)

        statuses = {
            service: (await stub.Check(health_pb2.HealthCheckRequest(service=service))).status
            for service in ("", CONTROL_PLANE, NODE_REGISTRY)
        }
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await stub.Check(health_pb2.HealthCheckRequest(service="nobody"))

    assert set(statuses.values()) == {health_pb2.HealthCheckResponse.SERVING}
    assert raised.value.code() is grpc.StatusCode.NOT_FOUND


async def test_reflection_lists_the_services(tmp_path: Path) -> None:
    async with running(tmp_path) as doors, grpc.aio.insecure_channel(str(doors.grpc)) as channel:
        make_stub: Any = reflection_pb2_grpc.ServerReflectionStub
        stub = make_stub(channel)
        call = stub.ServerReflectionInfo()
        await call.write(reflection_pb2.ServerReflectionRequest(list_services=""))
        answer = await call.read()
        call.cancel()

    names = {service.name for service in answer.list_services_response.service}
    assert {CONTROL_PLANE, NODE_REGISTRY, "grpc.health.v1.Health"} <= names


async def test_http_lives_but_is_not_ready_without_nodes(tmp_path: Path) -> None:
    async with running(tmp_path) as doors, httpx.AsyncClient() as client:
        healthy = await client.get(f"http://{doors.http}/healthz")
        ready = await client.get(f"http://{doors.http}/readyz")
        metrics = await client.get(f"http://{doors.http}/metrics")

    assert (healthy.status_code, ready.status_code) == (200, 503)
    assert "no node is connected" in ready.text
    assert "pilotlight_decision_seconds" in metrics.text


async def test_an_expected_error_reaches_a_grpc_client_with_its_words(tmp_path: Path) -> None:
    async with running(tmp_path) as doors, grpc.aio.insecure_channel(str(doors.grpc)) as channel:
        stub: rpc.ControlPlaneAsyncStub = rpc.ControlPlaneStub(channel)

        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await stub.DeleteModel(pb.DeleteModelRequest(name="m"))

    assert raised.value.code() is grpc.StatusCode.NOT_FOUND
    assert raised.value.details() == "no model 'm' is deployed; none is deployed"


async def test_what_happened_is_recorded(tmp_path: Path) -> None:
    async with running(tmp_path):
        pass

    [file] = (tmp_path / "recording").iterdir()
    with file.open("rb") as lines:
        header, entries = read_recording(lines)
        assert header.policy == "serverlessllm"
        assert [type(entry.event).__name__ for entry in entries] == ["Restored"]


async def test_each_leader_has_a_higher_epoch(tmp_path: Path) -> None:
    epochs: list[int] = []
    for _ in range(3):
        async with (
            running(tmp_path) as doors,
            grpc.aio.insecure_channel(str(doors.grpc)) as channel,
        ):
            stub: rpc.ControlPlaneAsyncStub = rpc.ControlPlaneStub(channel)
            answer = await stub.ListNodes(pb.ListNodesRequest())
            epochs.append(answer.epoch)

    assert epochs == [1, 2, 3]


async def test_it_waits_until_no_other_leads(tmp_path: Path) -> None:
    async with other_leader(tmp_path) as other:
        entering = Controller(settings(), home=tmp_path).running()
        waiting = asyncio.ensure_future(entering.__aenter__())
        done, _ = await asyncio.wait([waiting], timeout=0.3)
        await other.release()
        # It looks again every second.
        doors = await asyncio.wait_for(waiting, timeout=5.0)
        await entering.__aexit__(None, None, None)

    assert not done
    assert doors.grpc.port > 0


@pytest.mark.parametrize("door", ["listen", "http"])
async def test_a_port_in_use_is_said_before_anything_is_begun(
    tmp_path: Path, taken: int, door: str
) -> None:
    where = f"127.0.0.1:{taken}"
    fields: dict[str, Any] = {door: HttpSettings(listen=where) if door == "http" else where}

    with pytest.raises(AddressUnavailable, match=f"{taken}.*another process listens there"):
        async with running(tmp_path, **fields):
            pass

    assert os.listdir(tmp_path) == []


async def test_a_port_that_is_taken_while_it_waits_to_lead_is_said_too(
    tmp_path: Path, free_port: int
) -> None:
    async with other_leader(tmp_path) as other:
        entering = Controller(settings(listen=f"127.0.0.1:{free_port}"), home=tmp_path).running()
        waiting = asyncio.ensure_future(entering.__aenter__())
        await asyncio.wait([waiting], timeout=0.3)
        with socket.create_server(("127.0.0.1", free_port)):
            await other.release()
            await asyncio.wait([waiting], timeout=5.0)

    error = waiting.exception()
    while isinstance(error, BaseExceptionGroup):
        [error] = error.exceptions
    assert isinstance(error, AddressUnavailable)
    assert str(free_port) in str(error)


@pytest.fixture
def free_port() -> int:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port: int = unused.getsockname()[1]
        return port


@pytest.mark.parametrize(
    ("fields", "error", "text"),
    [
        ({"listen": "nonsense"}, InvalidAddress, "expected HOST:PORT, got 'nonsense'"),
        ({"policy": "best"}, PluginError, "no pilotlight.policies plugin is called 'best'"),
        ({"estimator": "best"}, PluginError, "no pilotlight.estimators plugin is called 'best'"),
        ({"keep_alive": "soon"}, InvalidModel, "keep_alive: expected a duration"),
    ],
)
def test_settings_that_make_no_sense_are_refused_by_name(
    tmp_path: Path, fields: dict[str, Any], error: type[Exception], text: str
) -> None:
    with pytest.raises(error) as raised:
        Controller(settings(**fields), home=tmp_path)

    assert str(raised.value).startswith(text)


def test_a_keep_alive_may_be_written_as_a_number(tmp_path: Path) -> None:
    file = tmp_path / "controller.yaml"
    file.write_text(f"apiVersion: pilotlight/v1\nkind: {KIND}\nkeep_alive: 90\n")

    found = read_settings(KIND, ControllerSettings, path=file, environ={}, overrides={})

    assert read_keep_alive(str(found.keep_alive)) == 90.0
    Controller(found, home=tmp_path)


def test_the_recording_keeps_at_least_the_file_that_is_written() -> None:
    with pytest.raises(SettingsError, match=r"recording\.kept_files: expected .* >= 1"):
        read_settings(
            KIND,
            ControllerSettings,
            path=None,
            environ={"PILOTLIGHT_RECORDING__KEPT_FILES": "0"},
            overrides={},
        )


async def test_a_state_that_can_t_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "state.db").mkdir()

    with pytest.raises(StateUnavailable, match=r"state\.db"):
        async with running(tmp_path):
            pass
