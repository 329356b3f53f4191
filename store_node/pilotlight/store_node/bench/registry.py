"""What a node says to its controller, kept for who waits for it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping
from typing import TypeAlias

import grpc

from pilotlight.process.bench.errors import BenchFailed
from pilotlight.store_node.protocol import (
    CheckpointStatus,
    Hello,
    Incarnation,
    NodeReport,
    NodeUpdate,
    Reference,
    ReplicaId,
    ReplicaStatus,
    Welcome,
    store_node_pb2,
    store_node_pb2_grpc,
    wire,
)
from pilotlight.store_node.protocol.channels import OPTIONS

EPOCH = 1
HEARTBEAT_SECONDS = 0.1
"""How soon a worker is known to be warm; a change of a replica is told at once."""

_Context: TypeAlias = grpc.aio.ServicerContext[
    store_node_pb2.NodeMessage, store_node_pb2.ControllerMessage
]


class Registry(store_node_pb2_grpc.NodeRegistryServicer):
    """Welcomes one node, and knows what it has reported last."""

    def __init__(self) -> None:
        self.address = ""
        """Of the node, once it has reported."""
        self.incarnation = Incarnation("")
        self.replicas: dict[ReplicaId, ReplicaStatus] = {}
        self.checkpoints: dict[Reference, CheckpointStatus] = {}
        self.warm_workers: Mapping[str, int] = {}
        self._server: grpc.aio.Server | None = None
        self._changed = asyncio.Event()
        self._lost = ""

    async def start(self) -> str:
        """Listen, and return where."""
        self._server = grpc.aio.server(options=(*OPTIONS, ("grpc.so_reuseport", 0)))
        store_node_pb2_grpc.add_NodeRegistryServicer_to_server(self, self._server)
        port = self._server.add_insecure_port("127.0.0.1:0")
        await self._server.start()
        return f"127.0.0.1:{port}"

    async def stop(self) -> None:
        """Listen no more."""
        if self._server is not None:
            await self._server.stop(None)

    def lose(self, reason: str) -> None:
        """Have all who wait fail: the node is gone."""
        self._lost = reason
        self._changed.set()

    async def loss(self, *, seconds: float) -> str:
        """Return why the node is gone, as soon as that is known; "" if it is not in time."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while not self._lost:
                    self._changed.clear()
                    await self._changed.wait()
        return self._lost

    async def wait_for(self, what: str, condition: Callable[[], bool], *, seconds: float) -> None:
        """Wait until what the node says makes a condition true.

        Raises:
            BenchFailed: the node is gone, or it took too long.
        """
        try:
            async with asyncio.timeout(seconds):
                while not condition():
                    if self._lost:
                        raise BenchFailed(self._lost)
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError as exc:
            raise BenchFailed(f"a node did not say within {seconds:g} s that {what}") from exc

    async def Session(  # type: ignore[override]  # grpc.aio lets a handler write to its context
        self, request_iterator: AsyncIterator[store_node_pb2.NodeMessage], context: _Context
    ) -> None:
        """Hear the node until it leaves."""
        async for message in request_iterator:
            if message.HasField("hello"):
                self.incarnation = wire.from_message(message.hello, Hello).incarnation
                await context.write(_welcome())
            elif message.HasField("acknowledge"):
                self._take_report(wire.from_message(message.acknowledge.report, NodeReport))
            else:
                self._take_update(wire.from_message(message.update, NodeUpdate))
            self._changed.set()

    def _take_report(self, report: NodeReport) -> None:
        self.replicas = {each.replica_id: each for each in report.replicas}
        self.checkpoints = {each.reference: each for each in report.checkpoints}
        self.warm_workers = report.warm_workers
        self.address = report.address

    def _take_update(self, update: NodeUpdate) -> None:
        self.replicas |= {each.replica_id: each for each in update.replicas}
        self.checkpoints |= {each.reference: each for each in update.checkpoints}
        # Only a heartbeat counts workers.
        if update.has_summaries:
            self.warm_workers = update.warm_workers


def _welcome() -> store_node_pb2.ControllerMessage:
    welcome = Welcome(epoch=EPOCH, heartbeat_seconds=HEARTBEAT_SECONDS)
    return store_node_pb2.ControllerMessage(
        welcome=wire.to_message(welcome, store_node_pb2.Welcome)
    )
