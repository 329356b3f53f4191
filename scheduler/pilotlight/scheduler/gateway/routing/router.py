"""Runs each request at a replica, and at another when the first is lost.

Theory of operation. A request waits until a route of its model has room, first
come first served; those that wait are its model's demand, which the controller
hears of. At a node it is an attempt; a higher attempt makes all lower ones void,
there and here. When an attempt ends without a finish reason, the request waits
again, at the head of the line, and its next attempt continues after the tokens
that the log has. It ends with an error when its deadline passes, when it has
been lost too often, or when a node says that it can never run.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from types import TracebackType

import structlog

from pilotlight.scheduler.core.actions import (
    AnyRouteUpdate,
    ModelRefused,
    RouteAdded,
    RouteRemoved,
)
from pilotlight.scheduler.errors import (
    ClientTooSlow,
    DuplicateRequest,
    InvalidRequest,
    ModelUnavailable,
    RequestLost,
)
from pilotlight.scheduler.gateway.backend import Inference, ServedModel
from pilotlight.scheduler.gateway.link import ControllerLink
from pilotlight.scheduler.gateway.routing.deadlines import Deadline
from pilotlight.scheduler.gateway.routing.node_streams import (
    AttemptEnded,
    NodeStream,
    NodeStreams,
    StreamItem,
)
from pilotlight.scheduler.gateway.routing.open_streams import OpenStreams
from pilotlight.scheduler.gateway.routing.places import Places
from pilotlight.scheduler.gateway.routing.routes import Route
from pilotlight.scheduler.gateway.routing.verdicts import (
    MOST_LOSSES,
    MOST_WORKERS_KILLED,
    Verdict,
    error_of,
    is_too_large_for_now,
    pause_after,
    verdict_on,
)
from pilotlight.scheduler.gateway.routing.waiting_lines import PendingRequest
from pilotlight.store_node.protocol import (
    GenerateRequest,
    ModelId,
    RequestId,
    TokenBatch,
)

log = structlog.get_logger(__name__)


class Router:
    """Implements `Backend` with the nodes that a controller's routes lead to.

    Use it as an asynchronous context manager: leaving it ends all requests.
    """

    def __init__(
        self, link: ControllerLink, *, streams: NodeStreams, clock: Callable[[], float]
    ) -> None:
        self._link = link
        self._clock = clock
        self._places = Places(self._report_demand, clock=clock)
        self._requests: dict[RequestId, PendingRequest] = {}
        self._streams = OpenStreams(streams)
        self._is_closed = False

    async def __aenter__(self) -> Router:
        await self._streams.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop_taking()
        self._streams.cut_all("the gateway stops")
        await self._streams.__aexit__(kind, error, trace)

    # -- Backend

    def models(self) -> Sequence[ServedModel]:
        """Return all deployed models, by name."""
        return self._link.models()

    async def find(self, name: str) -> ServedModel:
        """Return one model, its execution files fetched."""
        return await self._link.find(name)

    @asynccontextmanager
    async def admit(
        self, inferences: Sequence[Inference]
    ) -> AsyncGenerator[Sequence[AsyncGenerator[TokenBatch, None]]]:
        """Take requests of one model, all or none; see `Backend.admit`."""
        model = await self._link.find(inferences[0].model)
        requests = self._enter(inferences, model)
        runs = [self._run(request) for request in requests]
        # Whatever interrupts the end of one, the others are given up all the same.
        async with AsyncExitStack() as stack:
            for request, run in zip(requests, runs, strict=True):
                # Of one that was never begun, too.
                stack.callback(self._forget, request)
                stack.push_async_callback(run.aclose)
            self._places.ask(requests)
            yield runs

    # -- for the controller

    def stop_taking(self) -> None:
        """Tell all that wait, and all that come, that the server stops; what runs goes on."""
        self._is_closed = True
        self._places.close()

    def apply(self, update: AnyRouteUpdate) -> None:
        """Take over a change of routes."""
        match update:
            case RouteAdded():
                self._places.add(update)
            case RouteRemoved():
                self._remove(update)
            case ModelRefused():
                self._places.refuse(update.model, ModelUnavailable(update.model, update.reason))

    def announce_all(self) -> None:
        """Tell the controller all demand again, as to one that has just begun to lead."""
        self._places.announce_all()

    def counts(self) -> dict[ModelId, tuple[int, int]]:
        """Return by model how many requests wait, and how many run."""
        return self._places.counts()

    # -- from the first to the last token

    def _enter(
        self, inferences: Sequence[Inference], model: ServedModel
    ) -> Sequence[PendingRequest]:
        for inference in inferences:
            if inference.request_id in self._requests:
                raise DuplicateRequest(inference.request_id)
        if 1 < len(inferences) > model.queue_limit:
            # They would be turned away for ever where no replica runs yet.
            raise InvalidRequest(
                f"{len(inferences)} choices are asked for, and no more than {model.queue_limit}"
                f" requests may wait for {model.name!r}",
                param="n",
            )
        now = self._clock()
        requests = [
            PendingRequest(
                inference=inference,
                queue_limit=model.queue_limit,
                arrived_at=now,
                deadline=now + inference.deadline_seconds,
            )
            for inference in inferences
        ]
        self._requests.update((request.inference.request_id, request) for request in requests)
        return requests

    async def _run(self, request: PendingRequest) -> AsyncGenerator[TokenBatch, None]:
        """Yield the tokens of a request that has asked for a place."""
        try:
            while True:
                route = await self._places.take(request)
                try:
                    # One that is leaving by now went as the place was given.
                    if not route.is_leaving:
                        async with aclosing(self._attempt(request, route)) as batches:
                            async for batch in batches:
                                yield batch
                                if batch.finish_reason is not None:
                                    return
                    # Before its place is given back, which calls the first in line.
                    self._places.ask([request])
                finally:
                    self._places.release(route)
        finally:
            self._forget(request)

    def _forget(self, request: PendingRequest) -> None:
        self._places.leave(request)
        # Its id may be another's by now.
        if self._requests.get(request.inference.request_id) is request:
            del self._requests[request.inference.request_id]

    # -- running at a place

    async def _attempt(
        self, request: PendingRequest, route: Route
    ) -> AsyncGenerator[TokenBatch, None]:
        """Yield what an attempt adds; return without a finish reason if another one may follow."""
        request.state = f"running at {route.update.node}"
        message = self._attempt_message(request, route)
        with self._streams.opened(route.update.address, message) as stream:
            while True:
                item = await self._next(request, stream)
                if isinstance(item, AttemptEnded):
                    self._judge(request, route, item)
                    return
                # One that has tokens from elsewhere had its first there.
                self._note_first_token(request, route, was_under_way=bool(message.emitted_ids))
                yield item

    async def _next(self, request: PendingRequest, stream: NodeStream) -> StreamItem:
        """Return the next tokens that are new, or why there are none."""
        while True:
            async with self._until_deadline(request):
                item = await stream.items.get()
            if isinstance(item, AttemptEnded):
                return item
            try:
                batch = request.log.take(item)
            except ValueError as exc:
                return AttemptEnded(refusal=None, reason=str(exc))
            if batch is not None:
                return batch

    def _attempt_message(self, request: PendingRequest, route: Route) -> GenerateRequest:
        inference, attempt = request.inference, request.log.begin_attempt()
        return GenerateRequest(
            request_id=inference.request_id,
            attempt=attempt,
            epoch=route.update.epoch,
            incarnation=route.update.incarnation,
            idempotency_key=f"{inference.request_id}/{attempt}",
            deadline_seconds=request.deadline - self._clock(),
            replica_id=route.update.replica,
            compatibility=route.update.compatibility,
            prompt_ids=inference.prompt_ids,
            emitted_ids=tuple(request.log.emitted_ids),
            sampling=inference.sampling,
        )

    def _judge(self, request: PendingRequest, route: Route, ended: AttemptEnded) -> None:
        """Decide what an attempt's end means: return to try again, raise to give up."""
        verdict = verdict_on(ended)
        if verdict is Verdict.NEVER:
            raise error_of(ended)
        if verdict is Verdict.TOO_LATE or self._clock() >= request.deadline:
            raise request.too_late()
        if verdict is Verdict.TOO_SLOW:
            raise ClientTooSlow(request.inference.asked_as)
        self._places.suspend(route, pause_after(ended))
        request.is_large = is_too_large_for_now(ended)
        if verdict is Verdict.NOT_TAKEN:
            return
        log.warning(
            "attempt lost",
            request_id=request.inference.request_id,
            attempt=request.log.attempt,
            node=route.update.node,
            reason=ended.reason,
        )
        request.losses += 1
        request.workers_killed += verdict is Verdict.WORKER_KILLED
        if request.losses >= MOST_LOSSES or request.workers_killed >= MOST_WORKERS_KILLED:
            raise RequestLost(
                request.inference.asked_as, attempts=request.losses, reason=ended.reason
            )

    def _note_first_token(
        self, request: PendingRequest, route: Route, *, was_under_way: bool
    ) -> None:
        if route.has_served:
            return
        route.has_served = True
        if request.has_waited and not was_under_way:
            self._link.report_first_token(
                route.update.replica, seconds=self._clock() - request.arrived_at
            )

    # -- what the controller says

    def _remove(self, update: RouteRemoved) -> None:
        self._places.remove(update.replica)
        if update.is_lost:
            self._streams.cut(update.replica, update.reason, update.code)

    def _report_demand(self, model: ModelId, waiting: int, oldest_arrival: float | None) -> None:
        if self._is_closed:
            return
        self._link.report_demand(model, waiting=waiting, oldest_arrival=oldest_arrival)

    def _until_deadline(self, request: PendingRequest) -> Deadline:
        return Deadline(request.deadline - self._clock(), request.too_late)
