"""The controller's side of nodes: one session stream each.

Theory of operation. A node says Hello; it is welcomed with the leader's epoch,
and once it has acknowledged that with a full report it has joined. A node that
has seen a higher epoch makes this leader take one higher still, and all sessions
are welcomed again. A session that is silent for three heartbeats is over; so is
one whose connection breaks, but that node may come back in a moment.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import NoReturn, TypeAlias

import grpc
import structlog

from pilotlight.scheduler.core.events import (
    AnyEvent,
    EpochRaised,
    NodeDisconnected,
    NodeJoined,
    NodeUpdated,
)
from pilotlight.scheduler.errors import LeadershipLost, SchedulerError, StateUnavailable
from pilotlight.store_node.protocol import (
    PROTOCOL_VERSION,
    Hello,
    NodeId,
    NodeReport,
    NodeUpdate,
    Welcome,
    store_node_pb2,
    store_node_pb2_grpc,
    wire,
)
from pilotlight.store_node.protocol.channels import Channels

SILENT_HEARTBEATS = 3

log = structlog.get_logger(__name__)

_Context: TypeAlias = grpc.aio.ServicerContext[
    store_node_pb2.NodeMessage, store_node_pb2.ControllerMessage
]


@dataclass(slots=True, eq=False)
class _Session:
    hello: Hello
    context: _Context
    has_joined: bool = False


class SessionRefused(SchedulerError):
    """A node may not join as it is."""

    def __init__(self, code: grpc.StatusCode, message: str) -> None:
        super().__init__(message)
        self.code = code


class NodeRegistry(store_node_pb2_grpc.NodeRegistryServicer):
    """Holds the sessions of all nodes."""

    def __init__(
        self,
        *,
        epoch: int,
        raise_epoch: Callable[[int], Awaitable[int]],
        post: Callable[[AnyEvent], None],
        channels: Channels,
        heartbeat_seconds: float,
    ) -> None:
        self._epoch = epoch
        self._raise_epoch = raise_epoch
        self._post = post
        self._channels = channels
        self._heartbeat_seconds = heartbeat_seconds
        self._sessions: dict[NodeId, _Session] = {}
        self._raising = asyncio.Lock()
        self._addresses: dict[NodeId, str] = {}
        """Where nodes were last."""

    async def Session(  # type: ignore[override]  # grpc.aio lets a handler write to its context
        self,
        request_iterator: AsyncIterator[store_node_pb2.NodeMessage],
        context: _Context,
    ) -> None:
        """Serve one node until its connection or its patience ends."""
        session: _Session | None = None
        ended = "the connection broke"
        is_silent = False
        try:
            hello = await self._greet(request_iterator)
            session = self._begin(hello, context)
            await self._welcome(session)
            async for message in _paced(request_iterator, self._silence_seconds()):
                self._take(session, message)
            ended = "it left"
        except SessionRefused as exc:
            await context.abort(exc.code, str(exc))
        except (LeadershipLost, StateUnavailable) as exc:
            await context.abort(grpc.StatusCode.UNAVAILABLE, str(exc))
        except TimeoutError:
            ended = f"silent for {self._silence_seconds():g} s"
            is_silent = True
        except ValueError as exc:
            ended = f"it sent nonsense: {exc}"
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, ended)
        finally:
            if session is not None:
                self._end(session, ended, may_return=not is_silent)

    async def welcome_all(self) -> None:
        """Tell every node the present epoch."""
        sessions = list(self._sessions.values())
        answers = await asyncio.gather(*map(self._welcome, sessions), return_exceptions=True)
        for session, answer in zip(sessions, answers, strict=True):
            # Its own handler sees that its connection is broken, and ends it.
            if isinstance(answer, BaseException):
                log.info(
                    "node not told of the epoch", node=session.hello.node_id, reason=str(answer)
                )

    async def _greet(self, messages: AsyncIterator[store_node_pb2.NodeMessage]) -> Hello:
        async with asyncio.timeout(self._silence_seconds()):
            first = await anext(messages, None)
        if first is None or not first.HasField("hello"):
            _refuse(grpc.StatusCode.INVALID_ARGUMENT, "a session begins with Hello")
        hello = wire.from_message(first.hello, Hello)
        self._check(hello)
        await self._outgrow(hello.epoch)
        return hello

    def _begin(self, hello: Hello, context: _Context) -> _Session:
        # Again: another process may have taken the name while the epoch was being raised.
        self._check(hello)
        before = self._sessions.get(hello.node_id)
        if before is not None:
            self._end(before, "it connected anew", may_return=True)
        session = self._sessions[hello.node_id] = _Session(hello, context)
        return session

    def _check(self, hello: Hello) -> None:
        if not hello.node_id or not hello.incarnation:
            _refuse(grpc.StatusCode.INVALID_ARGUMENT, "a node needs a name and an incarnation")
        if hello.protocol_version < PROTOCOL_VERSION:
            _refuse(
                grpc.StatusCode.FAILED_PRECONDITION,
                f"this controller speaks version {PROTOCOL_VERSION} of the node protocol,"
                f" {hello.node_id} only {hello.protocol_version}",
            )
        known = self._sessions.get(hello.node_id)
        if known is not None and known.hello.incarnation != hello.incarnation:
            _refuse(
                grpc.StatusCode.ALREADY_EXISTS,
                f"a node named {hello.node_id} is connected; give this one another --name",
            )

    async def _outgrow(self, epoch: int) -> None:
        async with self._raising:
            if epoch <= self._epoch:
                return
            self._epoch = await self._raise_epoch(epoch)
            log.warning("epoch raised", reported=epoch, epoch=self._epoch)
            self._post(EpochRaised(epoch=self._epoch))
        await self.welcome_all()

    async def _welcome(self, session: _Session) -> None:
        welcome = Welcome(epoch=self._epoch, heartbeat_seconds=self._heartbeat_seconds)
        message = store_node_pb2.ControllerMessage(
            welcome=wire.to_message(welcome, store_node_pb2.Welcome)
        )
        await session.context.write(message)

    def _take(self, session: _Session, message: store_node_pb2.NodeMessage) -> None:
        node, incarnation = session.hello.node_id, session.hello.incarnation
        if self._sessions.get(node) is not session:
            return  # It was said before the node connected anew.
        if message.HasField("acknowledge"):
            if message.acknowledge.epoch != self._epoch:
                return
            report = wire.from_message(message.acknowledge.report, NodeReport)
            if (report.node_id, report.incarnation) != (node, incarnation):
                raise ValueError("its report is another node's")
            session.has_joined = True
            before = self._addresses.get(node, report.address)
            self._addresses[node] = report.address
            self._channels.get(report.address)
            self._post(NodeJoined(report=report))
            if before not in self._addresses.values():
                self._channels.forget(before)
        elif message.HasField("update") and session.has_joined:
            update = wire.from_message(message.update, NodeUpdate)
            self._post(NodeUpdated(node=node, incarnation=incarnation, update=update))

    def _end(self, session: _Session, reason: str, *, may_return: bool) -> None:
        hello = session.hello
        if self._sessions.get(hello.node_id) is not session:
            return
        del self._sessions[hello.node_id]
        if session.has_joined:
            self._post(
                NodeDisconnected(
                    node=hello.node_id,
                    incarnation=hello.incarnation,
                    reason=reason,
                    may_return=may_return,
                )
            )

    def _silence_seconds(self) -> float:
        return SILENT_HEARTBEATS * self._heartbeat_seconds


async def _paced(
    messages: AsyncIterator[store_node_pb2.NodeMessage], seconds: float
) -> AsyncIterator[store_node_pb2.NodeMessage]:
    """Yield messages; TimeoutError where the next one takes longer than that."""
    while True:
        async with asyncio.timeout(seconds):
            message = await anext(messages, None)
        if message is None:
            return
        yield message


def _refuse(code: grpc.StatusCode, message: str) -> NoReturn:
    raise SessionRefused(code, message)
