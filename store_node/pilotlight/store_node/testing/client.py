"""Calls to a node, as a controller and a router make them."""

from __future__ import annotations

import itertools
from collections.abc import AsyncGenerator, Mapping, Sequence
from types import TracebackType
from typing import Any

import grpc

from pilotlight.store_node.protocol import (
    CancelRequestRequest,
    CancelStartRequest,
    CommandHeader,
    EvictCheckpointRequest,
    FetchCheckpointRequest,
    GenerateRequest,
    Incarnation,
    ModelId,
    NodeReport,
    PinCheckpointRequest,
    Reference,
    ReplicaId,
    ReplicaSpec,
    RequestId,
    Sampling,
    StartReplicaRequest,
    StopReplicaRequest,
    TokenBatch,
    store_node_pb2,
    store_node_pb2_grpc,
    wire,
)
from pilotlight.store_node.protocol.channels import OPTIONS
from pilotlight.store_node.protocol.refusals import Refusal
from pilotlight.store_node.protocol.statuses import refusal_of

CALL_SECONDS = 10.0


class NodeClient:
    """Commands return the refusal, or None; every one has a new idempotency key."""

    def __init__(
        self,
        address: str,
        incarnation: Incarnation,
        *,
        epoch: int = 1,
        options: Sequence[tuple[str, int]] = (),
    ) -> None:
        self.epoch = epoch
        self.incarnation = incarnation
        self._channel = grpc.aio.insecure_channel(address, options=(*OPTIONS, *options))
        self.stub: store_node_pb2_grpc.StoreNodeAsyncStub = store_node_pb2_grpc.StoreNodeStub(
            self._channel
        )
        self._keys = itertools.count(1)

    async def __aenter__(self) -> NodeClient:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._channel.close()

    def header(self, *, key: str = "", epoch: int | None = None) -> CommandHeader:
        """Return a header, with a new key where none is given."""
        return CommandHeader(
            epoch=self.epoch if epoch is None else epoch,
            incarnation=self.incarnation,
            idempotency_key=key or f"key-{next(self._keys)}",
        )

    async def describe(self, *, rescan: bool = False) -> NodeReport:
        """Return the node's report."""
        request = store_node_pb2.DescribeRequest(rescan=rescan)
        report = await self.stub.Describe(request, timeout=CALL_SECONDS)
        return wire.from_message(report, NodeReport)

    async def start(
        self,
        reference: str,
        replica: str = "r1",
        *,
        engine: str = "timed",
        options: Mapping[str, str] | None = None,
        concurrency: int = 4,
        devices: int = 1,
        header: CommandHeader | None = None,
    ) -> Refusal | None:
        """Start a replica."""
        spec = ReplicaSpec(
            replica_id=ReplicaId(replica),
            model=ModelId("m"),
            reference=Reference(reference),
            devices=devices,
            engine=engine,
            engine_options=options or {},
            concurrency=concurrency,
        )
        return await self.send(StartReplicaRequest(header=header or self.header(), spec=spec))

    async def stop(
        self, replica: str = "r1", *, if_idle: bool = False, grace_seconds: float = 0.0
    ) -> Refusal | None:
        """Stop a replica."""
        return await self.send(
            StopReplicaRequest(
                header=self.header(),
                replica_id=ReplicaId(replica),
                if_idle=if_idle,
                grace_seconds=grace_seconds,
            )
        )

    async def cancel_start(self, replica: str = "r1") -> Refusal | None:
        """Give a start up."""
        return await self.send(
            CancelStartRequest(header=self.header(), replica_id=ReplicaId(replica))
        )

    async def fetch(self, reference: str) -> Refusal | None:
        """Prefetch a checkpoint."""
        return await self.send(
            FetchCheckpointRequest(header=self.header(), reference=Reference(reference))
        )

    async def evict(self, reference: str) -> Refusal | None:
        """Evict a checkpoint."""
        return await self.send(
            EvictCheckpointRequest(header=self.header(), reference=Reference(reference))
        )

    async def pin(self, reference: str, *, pinned: bool = True) -> Refusal | None:
        """Pin a checkpoint."""
        return await self.send(
            PinCheckpointRequest(
                header=self.header(), reference=Reference(reference), pinned=pinned
            )
        )

    async def cancel(self, request: str, *, attempt: int = 1) -> Refusal | None:
        """Cancel a request."""
        return await self.send(
            CancelRequestRequest(
                request_id=RequestId(request),
                attempt=attempt,
                epoch=self.epoch,
                incarnation=self.incarnation,
                idempotency_key=f"key-{next(self._keys)}",
            )
        )

    async def send(self, command: Any) -> Refusal | None:
        """Send any command; its class names the call."""
        name = type(command).__name__
        call = getattr(self.stub, name.removesuffix("Request"))
        try:
            await call(
                wire.to_message(command, getattr(store_node_pb2, name)), timeout=CALL_SECONDS
            )
        except grpc.aio.AioRpcError as error:
            refusal = refusal_of(error)
            if refusal is None:
                raise
            return refusal
        return None

    async def generate(
        self,
        request: str = "q1",
        replica: str = "r1",
        *,
        attempt: int = 1,
        prompt: Sequence[int] = (1, 2, 3),
        emitted: Sequence[int] = (),
        max_tokens: int = 8,
        deadline_seconds: float = 60.0,
    ) -> AsyncGenerator[TokenBatch]:
        """Run an attempt; yield its batches.

        Raises:
            AioRpcError: the node ended it.
        """
        message = GenerateRequest(
            request_id=RequestId(request),
            attempt=attempt,
            epoch=self.epoch,
            incarnation=self.incarnation,
            idempotency_key=f"{request}/{attempt}",
            deadline_seconds=deadline_seconds,
            replica_id=ReplicaId(replica),
            prompt_ids=tuple(prompt),
            emitted_ids=tuple(emitted),
            sampling=Sampling(temperature=0.0, max_tokens=max_tokens),
        )
        call = self.stub.Generate(wire.to_message(message, store_node_pb2.GenerateRequest))
        try:
            async for batch in call:
                yield wire.from_message(batch, TokenBatch)
        finally:
            call.cancel()

    async def text(self, request: str = "q1", replica: str = "r1", **options: Any) -> list[int]:
        """Run an attempt to its end; return its tokens."""
        return [
            token
            async for batch in self.generate(request, replica, **options)
            for token in batch.token_ids
        ]

    async def read_file(self, reference: str, name: str) -> bytes:
        """Return an execution file."""
        request = store_node_pb2.ReadExecutionFileRequest(reference=reference, name=name)
        return b"".join([block.data async for block in self.stub.ReadExecutionFile(request)])
