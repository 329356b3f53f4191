"""Nodes, a controller and clients that do what a test tells them to."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.message import Message

from pilotlight.scheduler.core.actions import RouteAdded, RouteRemoved
from pilotlight.scheduler.errors import SchedulerError, UnknownModel
from pilotlight.scheduler.gateway.backend import Inference, ServedModel
from pilotlight.scheduler.gateway.routing.node_streams import NodeStream, NodeStreams
from pilotlight.scheduler.gateway.routing.router import Router
from pilotlight.scheduler.testing.rpc_errors import broken, refused
from pilotlight.store_node.protocol import (
    FinishReason,
    GenerateRequest,
    Incarnation,
    ModelId,
    NodeId,
    ReplicaId,
    RequestId,
    Sampling,
    TokenBatch,
    store_node_pb2,
    wire,
)
from pilotlight.store_node.protocol.channels import Channels
from pilotlight.store_node.protocol.refusals import ErrorCode

PROMPT_IDS = (1, 2, 3)


class Attempt:
    """One call to a node: what the node says in it, and whether anybody still listens."""

    def __init__(self, address: str, request: GenerateRequest) -> None:
        self.address = address
        self.request = request
        self.is_open = True
        self._said: asyncio.Queue[Message | BaseException | None] = asyncio.Queue()
        self._next_seq = len(request.emitted_ids)

    def send(
        self,
        *token_ids: int,
        seq: int | None = None,
        attempt: int | None = None,
        finish_reason: FinishReason | None = None,
    ) -> None:
        """Emit the next tokens, or others."""
        if seq is None:
            seq, self._next_seq = self._next_seq, self._next_seq + len(token_ids)
        batch = TokenBatch(
            request_id=self.request.request_id,
            attempt=self.request.attempt if attempt is None else attempt,
            seq=seq,
            token_ids=token_ids,
            finish_reason=finish_reason,
        )
        self.say(wire.to_message(batch, store_node_pb2.TokenBatch))

    def finish(self, *token_ids: int) -> None:
        """Emit the last tokens."""
        self.send(*token_ids, finish_reason=FinishReason.LENGTH)
        self.end()

    def say(self, message: Message) -> None:
        """Send any message."""
        self._said.put_nowait(message)

    def refuse(self, code: ErrorCode, message: str = "") -> None:
        """End the call with one of the node's words."""
        self._said.put_nowait(refused(code, message))

    def break_off(self, code: grpc.StatusCode = grpc.StatusCode.UNAVAILABLE) -> None:
        """Let the connection break."""
        self._said.put_nowait(broken(code))

    def end(self) -> None:
        """End the call without an error."""
        self._said.put_nowait(None)

    # What `NodeStream` needs of a call.

    def cancel(self) -> bool:
        """Let the reader be told so, as grpc does."""
        self._said.put_nowait(asyncio.CancelledError())
        self.is_open = False
        return True

    async def __aiter__(self) -> AsyncGenerator[Message]:
        try:
            while True:
                said = await self._said.get()
                if said is None:
                    return
                if isinstance(said, BaseException):
                    raise said
                yield said
        finally:
            self.is_open = False


class ScriptedNodes(NodeStreams):
    """All nodes of a cluster: keeps every call, and answers as told."""

    def __init__(self) -> None:
        super().__init__(Channels())
        self.attempts: list[Attempt] = []
        self.on_attempt: Callable[[Attempt], None] = lambda _: None
        """Told of each call as it comes."""

    @property
    def last(self) -> Attempt:
        """The latest call."""
        return self.attempts[-1]

    def open(self, address: str, request: GenerateRequest) -> NodeStream:
        """Take a call."""
        attempt = Attempt(address, request)
        self.attempts.append(attempt)
        self.on_attempt(attempt)
        call: Any = attempt
        return NodeStream(call)


@dataclass(slots=True)
class ScriptedLink:
    """A `ControllerLink` that keeps what it is told."""

    served: dict[str, ServedModel] = field(default_factory=dict[str, ServedModel])
    demand: list[tuple[str, int, float | None]] = field(
        default_factory=list[tuple[str, int, float | None]]
    )
    """Model, requests that wait, arrival of the oldest."""
    first_tokens: list[tuple[str, float]] = field(default_factory=list[tuple[str, float]])

    def models(self) -> Sequence[ServedModel]:
        """Return all models."""
        return list(self.served.values())

    async def find(self, name: str) -> ServedModel:
        """Return one model."""
        if name not in self.served:
            raise UnknownModel(name, known=list(self.served))
        return self.served[name]

    def report_demand(self, model: ModelId, *, waiting: int, oldest_arrival: float | None) -> None:
        """Keep it."""
        self.demand.append((model, waiting, oldest_arrival))

    def report_first_token(self, replica: ReplicaId, *, seconds: float) -> None:
        """Keep it."""
        self.first_tokens.append((replica, seconds))


class Client:
    """Takes the tokens of one request as they come."""

    def __init__(self, router: Router, inference: Inference) -> None:
        self.batches: list[TokenBatch] = []
        self.error: SchedulerError | None = None
        self.may_read = asyncio.Event()
        self.may_read.set()
        self.task = asyncio.ensure_future(self._run(router, inference))

    @property
    def ids(self) -> list[int]:
        """All tokens so far."""
        return [token for batch in self.batches for token in batch.token_ids]

    @property
    def finish_reason(self) -> FinishReason | None:
        """None while it runs."""
        return self.batches[-1].finish_reason if self.batches else None

    async def leave(self) -> None:
        """Take nothing more, as a client that closes its connection."""
        self.task.cancel()
        await asyncio.wait([self.task])

    async def _run(self, router: Router, inference: Inference) -> None:
        try:
            async with router.admit([inference]) as [batches]:
                async for batch in batches:
                    self.batches.append(batch)
                    await self.may_read.wait()
        except SchedulerError as exc:
            self.error = exc


@dataclass(slots=True, kw_only=True)
class RoutingCase:
    """A router whose nodes, controller and clients are the test's."""

    router: Router
    nodes: ScriptedNodes
    link: ScriptedLink

    @classmethod
    @asynccontextmanager
    async def running(cls) -> AsyncGenerator[RoutingCase]:
        """Run a router on the running loop's clock until the block is left."""
        nodes, link = ScriptedNodes(), ScriptedLink()
        clock = asyncio.get_running_loop().time
        async with Router(link, streams=nodes, clock=clock) as router:
            case = cls(router=router, nodes=nodes, link=link)
            case.deploy("m")
            yield case

    def deploy(self, model: str, *, queue_limit: int = 256, directory: Path | None = None) -> None:
        """Make a model known."""
        self.link.served[model] = ServedModel(
            name=ModelId(model),
            context_tokens=1024,
            deployed_at=0.0,
            directory=directory or Path(),
            version="1",
            queue_limit=queue_limit,
        )

    def add(
        self, replica: str, model: str = "m", *, concurrency: int = 1, incarnation: str = "n-1"
    ) -> None:
        """Say that a replica takes requests; its node's address is the replica's name."""
        self.router.apply(
            RouteAdded(
                replica=ReplicaId(replica),
                model=ModelId(model),
                node=NodeId(f"node-of-{replica}"),
                incarnation=Incarnation(incarnation),
                address=replica,
                concurrency=concurrency,
                context_tokens=1024,
                compatibility=None,
                epoch=1,
            )
        )

    def remove(self, replica: str, *, is_lost: bool = False, code: str = "") -> None:
        """Say that a replica takes no more requests."""
        reason = "it is gone" if is_lost else "idle"
        update = RouteRemoved(replica=ReplicaId(replica), is_lost=is_lost, reason=reason, code=code)
        self.router.apply(update)

    def ask(self, request_id: str = "q1", model: str = "m", **fields: Any) -> Client:
        """Send a request; `fields` as for `inference`."""
        return Client(self.router, self.inference(request_id, model, **fields))

    def inference(
        self,
        request_id: str = "q1",
        model: str = "m",
        *,
        prompt_ids: Sequence[int] = PROMPT_IDS,
        max_tokens: int = 4,
        deadline_seconds: float = 300.0,
        **sampling: Any,
    ) -> Inference:
        """Return a request."""
        return Inference(
            request_id=RequestId(request_id),
            model=ModelId(model),
            prompt_ids=tuple(prompt_ids),
            sampling=Sampling(max_tokens=max_tokens, **sampling),
            deadline_seconds=deadline_seconds,
        )

    async def settle(self) -> None:
        """Let all that can run now do so; on a virtual clock this takes no time worth speaking of.

        A microsecond of it passes, once nothing else can run.
        """
        await asyncio.sleep(1e-6)
