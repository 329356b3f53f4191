"""The node's session with the controller, begun again for ever.

Theory of operation. The node says Hello, is welcomed with the leader's epoch,
and acknowledges it with a full report; from then on it sends what changes, at
once, and a summary at each heartbeat. When the epoch grows it is welcomed again
and acknowledges again. Whatever ends a session, replicas go on, and the next
session begins with a full report.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TypeAlias

import grpc
import structlog

from pilotlight.store_node.doors.changes import Changes
from pilotlight.store_node.protocol import (
    Hello,
    NodeReport,
    NodeUpdate,
    Welcome,
    store_node_pb2,
    store_node_pb2_grpc,
    wire,
)
from pilotlight.store_node.protocol.channels import OPTIONS

FIRST_BACKOFF_SECONDS = 0.1
LONGEST_BACKOFF_SECONDS = 3.0
WELCOME_SECONDS = 5.0
HEARTBEAT_SECONDS = 1.0
"""What a node does whose controller does not say."""
IDLE_NEWS_SECONDS = 0.1
"""The shortest time between two heartbeats, where a replica fell idle meanwhile."""

_Call: TypeAlias = grpc.aio.StreamStreamCall[
    store_node_pb2.NodeMessage, store_node_pb2.ControllerMessage
]

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Voice:
    """How a session learns what to say."""

    hello: Callable[[], Hello]
    report: Callable[[], NodeReport]
    changes: Callable[[], NodeUpdate | None]
    """What has changed since the last call; None = nothing."""
    heartbeat: Callable[[], NodeUpdate]
    see_epoch: Callable[[int], None]


class SessionEnded(Exception):
    """A session is over, and why; `kind` tells reasons apart that operators tell apart."""

    def __init__(self, reason: str, *, kind: str) -> None:
        super().__init__(reason)
        self.kind = kind


class Session:
    """Keeps the controller informed."""

    def __init__(
        self, address: str, voice: Voice, changes: Changes, *, rng: random.Random | None = None
    ) -> None:
        self._address = address
        self._voice = voice
        self._changes = changes
        self._rng = rng or random.Random()
        self._link: _Link | None = None
        self._left = asyncio.Event()
        self._told = ""

    @property
    def is_connected(self) -> bool:
        """Whether the controller has welcomed the node and the connection holds."""
        return self._link is not None

    async def leave(self) -> None:
        """Say what is still to be said, if anybody listens, and begin no further session."""
        self._left.set()
        link = self._link
        if link is not None:
            await self._changes.wait_taken()
            async with link.turn:
                await link.finish()

    async def run(self) -> None:
        """Hold one session after another until cancelled, or told to leave."""
        backoff_seconds = FIRST_BACKOFF_SECONDS
        while not self._left.is_set():
            try:
                await self._hold_one()
            except SessionEnded as exc:
                if self._left.is_set():
                    return
                if self.is_connected:
                    backoff_seconds = FIRST_BACKOFF_SECONDS
                self._tell_disconnected(exc)
            # Half to whole: nodes that lost the same controller come back one by one.
            await asyncio.sleep(backoff_seconds * self._rng.uniform(0.5, 1.0))
            backoff_seconds = min(2 * backoff_seconds, LONGEST_BACKOFF_SECONDS)

    async def _hold_one(self) -> None:
        """Hold a session until it ends.

        Raises:
            SessionEnded: always, if not cancelled.
        """
        async with self._open() as call:
            link = _Link(call)
            # In tasks of their own, for grpc ends a wait on a call that the other side has
            # cancelled with CancelledError, which here would pass for ours.
            tasks = [
                asyncio.ensure_future(self._listen(link)),
                asyncio.ensure_future(self._speak(link)),
            ]
            try:
                await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.wait(tasks)
            raise _end_of(tasks)

    @asynccontextmanager
    async def _open(self) -> AsyncGenerator[_Call]:
        # A pool of its own: a channel that just failed must not hand its back-off on.
        options = (*OPTIONS, ("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0))
        async with grpc.aio.insecure_channel(self._address, options=options) as channel:
            call = store_node_pb2_grpc.NodeRegistryStub(channel).Session()
            try:
                yield call
            finally:
                call.cancel()

    async def _greet(self, link: _Link) -> Welcome:
        try:
            async with asyncio.timeout(WELCOME_SECONDS):
                await link.send_hello(self._voice.hello())
                return await link.receive()
        except TimeoutError as exc:
            raise SessionEnded(f"no welcome within {WELCOME_SECONDS:g} s", kind="silent") from exc

    async def _acknowledge(self, link: _Link, welcome: Welcome) -> None:
        self._voice.see_epoch(welcome.epoch)
        async with link.turn:
            # The report says all that was noted until now.
            self._changes.clear()
            await link.send_report(welcome.epoch, self._voice.report())

    async def _listen(self, link: _Link) -> None:
        welcome = await self._greet(link)
        await self._acknowledge(link, welcome)
        self._tell_connected(welcome)
        self._link = link
        link.welcomed.set_result(welcome)
        while True:
            await self._acknowledge(link, await link.receive())

    async def _speak(self, link: _Link) -> None:
        welcome = await link.welcomed
        loop = asyncio.get_running_loop()
        period_seconds = welcome.heartbeat_seconds or HEARTBEAT_SECONDS
        told_at = float("-inf")
        while True:
            async with link.turn:
                if loop.time() >= self._next_heartbeat(told_at, period_seconds):
                    told_at = loop.time()
                    self._changes.clear_idle()
                    await link.send_update(self._voice.heartbeat())
                elif (update := self._voice.changes()) is not None:
                    await link.send_update(update)
            await self._wait_for_news(self._next_heartbeat(told_at, period_seconds) - loop.time())

    def _next_heartbeat(self, told_at: float, period_seconds: float) -> float:
        """Return when the next one is due: sooner where devices may have become free."""
        return told_at + (IDLE_NEWS_SECONDS if self._changes.is_idle_noted else period_seconds)

    async def _wait_for_news(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(max(seconds, 0.0)):
                await self._changes.wait()
        except TimeoutError:
            return

    def _tell_connected(self, welcome: Welcome) -> None:
        self._told = ""
        log.info("controller reached", controller=self._address, epoch=welcome.epoch)

    def _tell_disconnected(self, end: SessionEnded) -> None:
        """Say it once for each change: a controller may be away for hours."""
        if self.is_connected or self._told != end.kind:
            log.warning(
                "going on without the controller",
                controller=self._address,
                state="lost" if self.is_connected else "can't be reached",
                reason=str(end),
            )
        self._link = None
        self._told = end.kind


class _Link:
    """Numbers the messages of one session. Whoever holds `turn` says what is true now."""

    def __init__(self, call: _Call) -> None:
        self.turn = asyncio.Lock()
        self.welcomed: asyncio.Future[Welcome] = asyncio.get_running_loop().create_future()
        self._call = call
        self._seq = 0

    async def send_hello(self, hello: Hello) -> None:
        message = wire.to_message(hello, store_node_pb2.Hello)
        await self._send(store_node_pb2.NodeMessage(hello=message))

    async def send_report(self, epoch: int, report: NodeReport) -> None:
        message = store_node_pb2.Acknowledge(
            epoch=epoch, report=wire.to_message(report, store_node_pb2.NodeReport)
        )
        await self._send(store_node_pb2.NodeMessage(acknowledge=message))

    async def send_update(self, update: NodeUpdate) -> None:
        message = wire.to_message(update, store_node_pb2.NodeUpdate)
        await self._send(store_node_pb2.NodeMessage(update=message))

    async def receive(self) -> Welcome:
        while True:
            message = await self._call.read()
            if not isinstance(message, store_node_pb2.ControllerMessage):
                raise SessionEnded("the controller ended it", kind="ended")
            if message.HasField("welcome"):
                return wire.from_message(message.welcome, Welcome)

    async def finish(self) -> None:
        await self._call.done_writing()

    async def _send(self, message: store_node_pb2.NodeMessage) -> None:
        self._seq += 1
        message.seq = self._seq
        await self._call.write(message)


def _end_of(tasks: Sequence[asyncio.Future[None]]) -> SessionEnded:
    """Return why a session's tasks ended; the first that says so knows.

    Raises:
        Exception: a defect ended one.
    """
    errors = [
        error
        for task in tasks
        if task.done() and not task.cancelled() and (error := task.exception()) is not None
    ]
    for error in errors:
        if not isinstance(error, _ENDS):
            raise error
    return _ended(errors[0]) if errors else _ended(ConnectionError())


# grpc raises InvalidStateError for a write on a call that has just ended.
_ENDS = (SessionEnded, grpc.aio.AioRpcError, asyncio.InvalidStateError)


def _ended(error: BaseException) -> SessionEnded:
    if isinstance(error, SessionEnded):
        return error
    if isinstance(error, grpc.aio.AioRpcError):
        return SessionEnded(error.details() or error.code().name, kind=error.code().name)
    return SessionEnded("the connection broke", kind=grpc.StatusCode.UNAVAILABLE.name)
