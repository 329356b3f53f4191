"""A driver whose nodes, SQL state and policy are a test's."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import grpc
from google.protobuf.message import Message
from prometheus_client import CollectorRegistry

from pilotlight.estimators import StartEstimator
from pilotlight.scheduler.core import Core
from pilotlight.scheduler.core.actions import AnyAction, AnyRouteUpdate
from pilotlight.scheduler.core.events import (
    AnyEvent,
    DemandChanged,
    ModelDeployed,
    NodeJoined,
    NodeUpdated,
)
from pilotlight.scheduler.core.model import Model
from pilotlight.scheduler.core.recording import Header
from pilotlight.scheduler.core.state import Replica
from pilotlight.scheduler.driver.driver import Clocks, Driver
from pilotlight.scheduler.driver.metrics import DriverMetrics
from pilotlight.scheduler.driver.planner import Planner
from pilotlight.scheduler.driver.recorder import Recorder
from pilotlight.scheduler.policies import Policy, RandomNode, ServerlessLLM
from pilotlight.scheduler.store import Change, PutStart, StartPosition, StartRecord
from pilotlight.scheduler.testing.reports import model_of, report_of, status_of, summary_of
from pilotlight.scheduler.testing.rpc_errors import broken
from pilotlight.store_node.protocol import (
    CheckpointStatus,
    ModelId,
    NodeReport,
    NodeUpdate,
    ReplicaState,
    store_node_pb2,
)
from pilotlight.store_node.protocol.channels import Channels

WALL = 1.7e9
"""Seconds since 1970 at which the loop's clock shows 0."""


@dataclass(slots=True, kw_only=True)
class Call:
    """One call to a node."""

    address: str
    method: str
    message: Any
    timeout_seconds: float
    at: float


Answer = Callable[[Call], Awaitable[Message]]
Stream = Callable[[Call], AsyncIterator[Message]]


class ScriptedChannels(Channels):
    """Nodes without a network: keeps every call, and answers as told."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Call] = []
        self.answer: Answer = accept
        """Answers calls with one answer; raises what the call is to fail with."""
        self.stream: Stream = say_nothing
        """Answers calls with many."""
        self.forgotten: list[str] = []

    def get(self, address: str) -> grpc.aio.Channel:
        """Return what a stub needs of a connection."""
        return cast(grpc.aio.Channel, _Channel(self, address))  # as far as stubs use one

    def forget(self, address: str) -> None:
        """Note it."""
        self.forgotten.append(address)

    def calls_of(self, method: str) -> list[Call]:
        """Return the calls of one kind."""
        return [call for call in self.calls if call.method == method]


async def accept(call: Call) -> Message:
    """Carry out any command; a node that is asked what it has can't be reached."""
    if call.method == "Describe":
        raise broken(grpc.StatusCode.UNAVAILABLE)
    return store_node_pb2.CommandResponse()


async def hang(call: Call) -> Message:
    """Never answer."""
    await asyncio.Event().wait()
    raise AssertionError("nothing sets it")


async def say_nothing(call: Call) -> AsyncGenerator[Message]:
    """End at once."""
    nothing: Sequence[Message] = ()
    for message in nothing:
        yield message


class _Channel:
    def __init__(self, channels: ScriptedChannels, address: str) -> None:
        self._channels = channels
        self._address = address

    def unary_unary(self, path: str, **_: Any) -> Callable[..., Awaitable[Message]]:
        async def call(message: Message, *, timeout: float) -> Message:
            made = self._note(path, message, timeout)
            try:
                async with asyncio.timeout(timeout):
                    return await self._channels.answer(made)
            except TimeoutError:
                raise broken(grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded") from None

        return call

    def unary_stream(self, path: str, **_: Any) -> Callable[..., AsyncIterator[Message]]:
        def call(message: Message, *, timeout: float) -> AsyncIterator[Message]:
            return self._channels.stream(self._note(path, message, timeout))

        return call

    def _note(self, path: str, message: Message, timeout: float) -> Call:
        call = Call(
            address=self._address,
            method=path.rpartition("/")[2],
            message=message,
            timeout_seconds=timeout,
            at=asyncio.get_running_loop().time(),
        )
        self._channels.calls.append(call)
        return call


@dataclass(slots=True, kw_only=True)
class ScriptedStore:
    """A `StateStore` in memory."""

    applied: list[Change] = field(default_factory=list[Change])
    failure: Exception | None = None
    """What the next writes fail with."""
    seconds: float = 0.0
    """What a write takes."""

    async def apply(self, changes: Sequence[Change]) -> None:
        """Keep changes."""
        await asyncio.sleep(self.seconds)
        if self.failure is not None:
            raise self.failure
        self.applied += changes

    async def list_starts(
        self, limit: int, *, before: StartPosition | None = None
    ) -> tuple[StartRecord, ...]:
        """Return starts, newest first."""
        starts = {change.start.replica_id: change.start for change in self.kept(PutStart)}
        ordered = sorted(starts.values(), key=lambda start: start.position, reverse=True)
        return tuple(s for s in ordered if before is None or s.position < before)[:limit]

    def kept(self, kind: type[Any]) -> list[Any]:
        """Return the changes of one kind."""
        return [change for change in self.applied if isinstance(change, kind)]


@dataclass(slots=True, kw_only=True)
class DriverCase:
    """A driver on the running loop's clock."""

    driver: Driver
    channels: ScriptedChannels
    store: ScriptedStore
    registry: CollectorRegistry
    directory: Path
    handled: list[tuple[AnyEvent, list[AnyAction]]] = field(
        default_factory=list[tuple[AnyEvent, list[AnyAction]]]
    )
    """Every event that the core was given, and what it asked for."""
    routes: list[AnyRouteUpdate] = field(default_factory=list[AnyRouteUpdate])

    @classmethod
    @asynccontextmanager
    async def running(
        cls, directory: Path, *, policy: Policy | None = None, file_bytes: int = 64 << 20
    ) -> AsyncGenerator[DriverCase]:
        """Run a driver until the block is left; its recording lies below the directory."""
        clock = asyncio.get_running_loop().time
        clocks = Clocks(monotonic=clock, wall=lambda: WALL + clock())
        channels, store, registry = ScriptedChannels(), ScriptedStore(), CollectorRegistry()
        core, policy, metrics = _core(), policy or ServerlessLLM(), DriverMetrics(registry)
        recorder = Recorder(
            directory / "recording",
            header=lambda: _header(core, clocks, policy),
            file_bytes=file_bytes,
            kept_files=100,
        )
        any_store: Any = store
        async with asyncio.TaskGroup() as tasks:
            driver = Driver(
                core,
                planner=Planner(policy, fallback=RandomNode(), metrics=metrics, clock=clock),
                store=any_store,
                recorder=recorder,
                channels=channels,
                clocks=clocks,
                tasks=tasks,
                metrics=metrics,
            )
            case = cls(
                driver=driver,
                channels=channels,
                store=store,
                registry=registry,
                directory=directory,
            )
            case._watch(core)
            driver.subscribers.append(case.routes.append)
            try:
                yield case
            finally:
                driver.close()
                recorder.close()

    def deploy(self, name: str, **fields: Any) -> Model:
        """Tell the core of a model; `fields` are those of `Model`."""
        model = model_of(name, **fields)
        self.driver.post(ModelDeployed(model=model))
        return model

    def join(
        self, node: str, *, holds: Iterable[CheckpointStatus | str] = (), **fields: Any
    ) -> NodeReport:
        """Let a node join; `fields` are those of `report_of`."""
        report = report_of(node, holds=holds, **fields)
        self.driver.post(NodeJoined(report=report))
        return report

    def demand(self, model: str, waiting: int) -> None:
        """Let requests wait for a model."""
        oldest = asyncio.get_running_loop().time() if waiting else None
        self.driver.post(
            DemandChanged(model=ModelId(model), waiting=waiting, oldest_arrival=oldest)
        )

    def report(self, replica: Replica, state: ReplicaState, **fields: Any) -> None:
        """Let a replica's node say what state it is in; `fields` are those of `ReplicaStatus`."""
        status = status_of(replica.id, replica.model, state, **fields)
        node = self.driver.core.state.nodes[replica.node]
        update = NodeUpdate(replicas=(status,))
        self.driver.post(NodeUpdated(node=node.id, incarnation=node.incarnation, update=update))

    def idle(self, replica: Replica) -> None:
        """Let a replica's node say that it has just run its last request."""
        node = self.driver.core.state.nodes[replica.node]
        update = NodeUpdate(summaries=(summary_of(replica.id),), has_summaries=True)
        self.driver.post(NodeUpdated(node=node.id, incarnation=node.incarnation, update=update))

    @property
    def replicas(self) -> list[Replica]:
        """The replicas that live."""
        return list(self.driver.core.state.replicas.values())

    @property
    def actions(self) -> list[AnyAction]:
        """All that the core has asked for."""
        return [action for _, actions in self.handled for action in actions]

    async def settle(self) -> None:
        """Let all that can run now do so."""
        await asyncio.sleep(1e-6)

    def _watch(self, core: Core) -> None:
        handle = core.handle

        def keep(event: AnyEvent, now: float) -> list[AnyAction]:
            actions = handle(event, now)
            core.check_integrity()
            self.handled.append((event, actions))
            return actions

        # What the driver calls; an instance attribute goes before the method.
        vars(core)["handle"] = keep


def _core() -> Core:
    return Core(estimator=StartEstimator())


def _header(core: Core, clocks: Clocks, policy: Policy) -> Header:
    is_new = core.state.version == 0
    return Header(
        package_version="1",
        policy=policy.name,
        began_at=clocks.wall(),
        began_now=clocks.monotonic(),
        state=None if is_new else core.state,
        lessons=None if is_new else core.estimator.lessons(),
    )
