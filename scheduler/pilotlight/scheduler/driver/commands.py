"""Sends commands to nodes, those of one node in their order."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

import grpc
import structlog

from pilotlight.scheduler.core.actions import Send
from pilotlight.scheduler.core.events import Acked, AnyEvent, Lost, Refused
from pilotlight.store_node.protocol import (
    CancelStartRequest,
    EvictCheckpointRequest,
    FetchCheckpointRequest,
    Incarnation,
    StartReplicaRequest,
    StopReplicaRequest,
    store_node_pb2,
    store_node_pb2_grpc,
    wire,
)
from pilotlight.store_node.protocol.channels import Channels
from pilotlight.store_node.protocol.statuses import refusal_of

RETRY_SECONDS = 0.2

_CALLS: Mapping[type[Any], tuple[str, type[Any]]] = {
    StartReplicaRequest: ("StartReplica", store_node_pb2.StartReplicaRequest),
    StopReplicaRequest: ("StopReplica", store_node_pb2.StopReplicaRequest),
    CancelStartRequest: ("CancelStart", store_node_pb2.CancelStartRequest),
    FetchCheckpointRequest: ("FetchCheckpoint", store_node_pb2.FetchCheckpointRequest),
    EvictCheckpointRequest: ("EvictCheckpoint", store_node_pb2.EvictCheckpointRequest),
}

log = structlog.get_logger(__name__)


class CommandSender:
    """One line per node; a dead node holds up no other."""

    def __init__(
        self,
        tasks: asyncio.TaskGroup,
        *,
        channels: Channels,
        post: Callable[[AnyEvent], None],
    ) -> None:
        self._tasks = tasks
        self._channels = channels
        self._post = post
        self._lines: dict[Incarnation, deque[tuple[str, Send]]] = {}
        self._serving: set[asyncio.Task[None]] = set()

    def send(self, action: Send, *, address: str) -> None:
        """Send a command after those that went to its node before."""
        line = self._lines.get(action.incarnation)
        if line is not None:
            line.append((address, action))
            return
        self._lines[action.incarnation] = deque([(address, action)])
        task = self._tasks.create_task(self._serve(action.incarnation))
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)

    def close(self) -> None:
        """Send nothing more, and wait for no answer."""
        for task in self._serving:
            task.cancel()

    async def _serve(self, incarnation: Incarnation) -> None:
        line = self._lines[incarnation]
        while line:
            address, action = line.popleft()
            stub = store_node_pb2_grpc.StoreNodeStub(self._channels.get(address))
            self._post(await self._answer(stub, action))
        del self._lines[incarnation]

    async def _answer(self, stub: store_node_pb2_grpc.StoreNodeAsyncStub, action: Send) -> AnyEvent:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + action.command.header.deadline_seconds
        name, message_type = _CALLS[type(action.command)]
        message = wire.to_message(action.command, message_type)
        while True:
            try:
                await getattr(stub, name)(message, timeout=max(deadline - loop.time(), 0.001))
                return Acked(decision=action.decision, step=action.step)
            except grpc.aio.AioRpcError as error:
                answer = _judge(action, error)
            if answer is not None or loop.time() + RETRY_SECONDS >= deadline:
                return answer or _lost(action, "the node can't be reached")
            await asyncio.sleep(RETRY_SECONDS)


def _judge(action: Send, error: grpc.aio.AioRpcError) -> AnyEvent | None:
    """Return what an error says of the command; None where sending it again may help."""
    refusal = refusal_of(error)
    if refusal is not None:
        return Refused(
            decision=action.decision,
            step=action.step,
            code=refusal.code,
            reason=refusal.message,
        )
    if error.code() is grpc.StatusCode.UNAVAILABLE:
        return None
    return _lost(action, error.details() or error.code().name)


def _lost(action: Send, reason: str) -> Lost:
    log.warning(
        "command lost",
        node=action.node,
        decision_id=action.decision,
        step_id=action.step,
        reason=reason,
    )
    return Lost(decision=action.decision, step=action.step, reason=reason)
