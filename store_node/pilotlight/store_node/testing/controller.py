"""The controller's side of a session, as far as a node can tell."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import TypeAlias

import grpc

from pilotlight.store_node.protocol import (
    Hello,
    LoadStatus,
    NodeReport,
    NodeUpdate,
    ReplicaId,
    ReplicaState,
    ReplicaStatus,
    Welcome,
    store_node_pb2,
    store_node_pb2_grpc,
    wire,
)
from pilotlight.store_node.protocol.channels import OPTIONS

_Context: TypeAlias = grpc.aio.ServicerContext[
    store_node_pb2.NodeMessage, store_node_pb2.ControllerMessage
]


class FakeController(store_node_pb2_grpc.NodeRegistryServicer):
    """Welcomes nodes with an epoch, and keeps what they report."""

    def __init__(self, *, epoch: int = 1, heartbeat_seconds: float = 1.0) -> None:
        self.epoch = epoch
        self.heartbeat_seconds = heartbeat_seconds
        self.hellos: list[Hello] = []
        self.reports: list[NodeReport] = []
        self.updates: list[NodeUpdate] = []
        self.acknowledged: list[int] = []
        self.replicas: dict[ReplicaId, ReplicaStatus] = {}
        self.address = ""
        self._server: grpc.aio.Server | None = None
        self._contexts: list[_Context] = []
        self._changed = asyncio.Event()

    async def start(self, address: str = "127.0.0.1:0") -> str:
        """Listen, and return where."""
        self._server = grpc.aio.server(options=(*OPTIONS, ("grpc.so_reuseport", 0)))
        store_node_pb2_grpc.add_NodeRegistryServicer_to_server(self, self._server)
        port = self._server.add_insecure_port(address)
        await self._server.start()
        self.address = f"127.0.0.1:{port}"
        return self.address

    async def stop(self) -> None:
        """End all sessions and listen no more."""
        if self._server is not None:
            await self._server.stop(None)
            self._server = None

    async def lead_again(self, epoch: int) -> None:
        """Welcome all nodes with another epoch."""
        self.epoch = epoch
        for context in self._contexts:
            await context.write(self._welcome())

    async def wait_for(self, condition: Callable[[], bool], *, seconds: float = 10.0) -> None:
        """Wait until what nodes have said makes a condition true.

        Raises:
            TimeoutError: it did not become true.
        """
        async with asyncio.timeout(seconds):
            while not condition():
                self._changed.clear()
                await self._changed.wait()

    async def wait_state(
        self, replica: str, state: ReplicaState, *, seconds: float = 30.0
    ) -> ReplicaStatus:
        """Wait until a replica is in a state, and return its status."""
        replica_id = ReplicaId(replica)

        def is_there() -> bool:
            status = self.replicas.get(replica_id)
            return status is not None and status.state is state

        try:
            await self.wait_for(is_there, seconds=seconds)
        except TimeoutError as exc:
            raise TimeoutError(f"{replica} is {self.replicas.get(replica_id)}") from exc
        return self.replicas[replica_id]

    @property
    def loads(self) -> tuple[LoadStatus, ...]:
        """The loads in flight, as last reported."""
        return self.updates[-1].loads if self.updates else ()

    async def Session(  # type: ignore[override]  # grpc.aio lets a handler write to its context
        self,
        request_iterator: AsyncIterator[store_node_pb2.NodeMessage],
        context: _Context,
    ) -> None:
        """Serve one node until it leaves."""
        seq = 0
        async for message in request_iterator:
            seq += 1
            assert message.seq == seq, f"message {message.seq} came as number {seq}"
            if message.HasField("hello"):
                self.hellos.append(wire.from_message(message.hello, Hello))
                self._contexts.append(context)
                await context.write(self._welcome())
            elif message.HasField("acknowledge"):
                self._take_report(message.acknowledge)
            else:
                self._take_update(wire.from_message(message.update, NodeUpdate))
            self._changed.set()
        self._contexts.remove(context)

    def _take_report(self, acknowledge: store_node_pb2.Acknowledge) -> None:
        report = wire.from_message(acknowledge.report, NodeReport)
        self.acknowledged.append(acknowledge.epoch)
        self.reports.append(report)
        self.replicas = {each.replica_id: each for each in report.replicas}

    def _take_update(self, update: NodeUpdate) -> None:
        self.updates.append(update)
        self.replicas |= {each.replica_id: each for each in update.replicas}

    def _welcome(self) -> store_node_pb2.ControllerMessage:
        welcome = Welcome(epoch=self.epoch, heartbeat_seconds=self.heartbeat_seconds)
        return store_node_pb2.ControllerMessage(
            welcome=wire.to_message(welcome, store_node_pb2.Welcome)
        )
