"""The gRPC door of a node: translates calls into events, and back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from pathlib import Path
from typing import Any, NoReturn, TypeAlias, TypeVar

import grpc
import structlog
from google.protobuf.message import Message

from pilotlight.native_loader import NotACheckpoint
from pilotlight.store_node.core import NodeCore
from pilotlight.store_node.core.events import Command
from pilotlight.store_node.doors.streams import StreamRefused, TokenStream
from pilotlight.store_node.protocol import (
    CancelRequestRequest,
    CancelStartRequest,
    CommandHeader,
    CommandResponse,
    EvictCheckpointRequest,
    FetchCheckpointRequest,
    GenerateRequest,
    Incarnation,
    NodeReport,
    PinCheckpointRequest,
    ReadExecutionFileRequest,
    Reference,
    StartReplicaRequest,
    StopReplicaRequest,
    store_node_pb2,
    store_node_pb2_grpc,
    wire,
)
from pilotlight.store_node.protocol.refusals import ErrorCode, Refusal
from pilotlight.store_node.protocol.statuses import status_of
from pilotlight.store_node.shell.executor import Executor
from pilotlight.store_node.shell.journal import Journal
from pilotlight.store_node.storage.catalogue import Catalogue

MOST_FILE_BYTES = 64 << 20
FILE_BLOCK_BYTES = 256 << 10

V = TypeVar("V")
_Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]

log = structlog.get_logger(__name__)


class StoreNodeService(store_node_pb2_grpc.StoreNodeServicer):
    """Serves `pilotlight.store_node.v1.StoreNode`."""

    def __init__(
        self,
        core: NodeCore,
        executor: Executor,
        catalogue: Catalogue,
        *,
        incarnation: Incarnation,
        journal: Journal,
        report: Callable[[], NodeReport],
        rescan: Callable[[], Awaitable[None]],
    ) -> None:
        self._core = core
        self._executor = executor
        self._catalogue = catalogue
        self._incarnation = incarnation
        self._journal = journal
        self._report = report
        self._rescan = rescan

    async def Describe(
        self, request: store_node_pb2.DescribeRequest, context: _Context
    ) -> store_node_pb2.NodeReport:
        """Report everything."""
        if request.rescan:
            await self._rescan()
        return wire.to_message(self._report(), store_node_pb2.NodeReport)

    async def StartReplica(
        self, request: store_node_pb2.StartReplicaRequest, context: _Context
    ) -> store_node_pb2.CommandResponse:
        """Begin a start."""
        command = await _read(request, StartReplicaRequest, context)
        await self._refresh(command.spec.reference)
        self._journal.note_start(command.spec.replica_id, command.header)
        return await self._obey(command, context)

    async def StopReplica(
        self, request: store_node_pb2.StopReplicaRequest, context: _Context
    ) -> store_node_pb2.CommandResponse:
        """End a replica."""
        return await self._obey(await _read(request, StopReplicaRequest, context), context)

    async def CancelStart(
        self, request: store_node_pb2.CancelStartRequest, context: _Context
    ) -> store_node_pb2.CommandResponse:
        """Give a start up."""
        return await self._obey(await _read(request, CancelStartRequest, context), context)

    async def FetchCheckpoint(
        self, request: store_node_pb2.FetchCheckpointRequest, context: _Context
    ) -> store_node_pb2.CommandResponse:
        """Begin a prefetch."""
        command = await _read(request, FetchCheckpointRequest, context)
        await self._refresh(command.reference)
        return await self._obey(command, context)

    async def EvictCheckpoint(
        self, request: store_node_pb2.EvictCheckpointRequest, context: _Context
    ) -> store_node_pb2.CommandResponse:
        """Drop a checkpoint from DRAM."""
        return await self._obey(await _read(request, EvictCheckpointRequest, context), context)

    async def PinCheckpoint(
        self, request: store_node_pb2.PinCheckpointRequest, context: _Context
    ) -> store_node_pb2.CommandResponse:
        """Keep a checkpoint in DRAM, or no longer."""
        return await self._obey(await _read(request, PinCheckpointRequest, context), context)

    async def CancelRequest(
        self, request: store_node_pb2.CancelRequestRequest, context: _Context
    ) -> store_node_pb2.CommandResponse:
        """Cancel a request."""
        cancel = await _read(request, CancelRequestRequest, context)
        refusal = self._executor.cancel(cancel)
        if refusal is not None:
            await _refuse(context, refusal)
        return self._done()

    async def Generate(  # type: ignore[override]  # grpc.aio lets a handler write to its context
        self, request: store_node_pb2.GenerateRequest, context: _Context
    ) -> None:
        """Run an attempt; whatever ends the call ends the attempt.

        No generator: a call that ends while one waits at its `yield` would not
        end the attempt before the garbage collector finds it.
        """
        generate = await _read(request, GenerateRequest, context)
        structlog.contextvars.bind_contextvars(request_id=generate.request_id)
        try:
            stream = self._executor.open_stream(generate)
        except StreamRefused as exc:
            await _refuse(context, exc.refusal)
        try:
            await _pump(stream, context)
        except StreamRefused as exc:
            await _refuse(context, exc.refusal)
        finally:
            self._executor.close_stream(stream)

    async def ReadExecutionFile(
        self, request: store_node_pb2.ReadExecutionFileRequest, context: _Context
    ) -> AsyncGenerator[store_node_pb2.FileBlock]:
        """Stream a small file of a checkpoint."""
        wanted = await _read(request, ReadExecutionFileRequest, context)
        path = self._locate(wanted)
        if path is None:
            message = f"{wanted.reference!r} has no execution file {wanted.name!r} on this node"
            await _refuse(context, Refusal(code=ErrorCode.UNKNOWN_FILE, message=message))
        try:
            blocks = await asyncio.to_thread(_read_blocks, path)
        except OSError as exc:
            message = f"{path}: {exc.strerror}"
            await _refuse(context, Refusal(code=ErrorCode.READ_FAILED, message=message))
        if blocks is None:
            message = f"{path} is larger than {MOST_FILE_BYTES} bytes"
            await _refuse(context, Refusal(code=ErrorCode.FILE_TOO_LARGE, message=message))
        for block in blocks:
            yield store_node_pb2.FileBlock(data=block)

    def _locate(self, wanted: ReadExecutionFileRequest) -> Path | None:
        try:
            return self._catalogue.resolve_file(wanted.reference, wanted.name)
        except NotACheckpoint as exc:
            log.warning("execution file refused", reason=str(exc))
            return None

    async def _refresh(self, reference: Reference) -> None:
        """Look again where a checkpoint's files are not those of the last scan."""
        if not self._catalogue.is_current(reference):
            await self._rescan()

    async def _obey(self, command: Command, context: _Context) -> store_node_pb2.CommandResponse:
        with structlog.contextvars.bound_contextvars(**_ids(command.header)):
            refusal = self._executor.command(command)
            kind = type(command).__name__.removesuffix("Request")
            if refusal is not None:
                log.info("command refused", command=kind, code=refusal.code, reason=refusal.message)
                await _refuse(context, refusal)
            log.debug("command accepted", command=kind)
        return self._done()

    def _done(self) -> store_node_pb2.CommandResponse:
        response = CommandResponse(epoch=self._core.epoch, incarnation=self._incarnation)
        return wire.to_message(response, store_node_pb2.CommandResponse)


async def _pump(stream: TokenStream, context: _Context) -> None:
    is_last = False
    while not is_last:
        batch = await stream.next_batch()
        is_last = batch.finish_reason is not None
        await context.write(wire.to_message(batch, store_node_pb2.TokenBatch))


def _ids(header: CommandHeader) -> dict[str, str]:
    ids = {"decision_id": header.decision_id, "step_id": header.step_id}
    return {name: value for name, value in ids.items() if value}


async def _read(message: Message, value_type: type[V], context: _Context) -> V:
    try:
        return wire.from_message(message, value_type)
    except ValueError as exc:
        await _refuse(context, Refusal(code=ErrorCode.INVALID_REQUEST, message=str(exc)))


async def _refuse(context: _Context, refusal: Refusal) -> NoReturn:
    await context.abort_with_status(status_of(refusal))
    raise AssertionError("abort_with_status raises")


def _read_blocks(path: Path) -> list[bytes] | None:
    """Return a file's bytes in blocks; None where it is too large."""
    with path.open("rb") as file:
        data = file.read(MOST_FILE_BYTES + 1)
    if len(data) > MOST_FILE_BYTES:
        return None
    return [
        data[start : start + FILE_BLOCK_BYTES] for start in range(0, len(data), FILE_BLOCK_BYTES)
    ]
