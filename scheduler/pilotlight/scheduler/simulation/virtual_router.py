"""Where requests wait and run: the router's rules on a virtual clock.

Theory of operation. A request goes to the least loaded route of its model that
has room, unless others of its model wait; then it joins the end of their line.
One that loses its place (its replica's node is gone) goes to the head of the
line with what it has emitted. Whoever waits until its deadline leaves. Demand
is told when a line has changed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from pilotlight.scheduler.core.actions import (
    AnyRouteUpdate,
    ModelRefused,
    RouteAdded,
    RouteRemoved,
)
from pilotlight.scheduler.core.events import DemandChanged
from pilotlight.scheduler.gateway.routing.routes import Route, RouteTable
from pilotlight.scheduler.simulation.arrivals import Arrival
from pilotlight.scheduler.simulation.event_heap import EventHeap
from pilotlight.scheduler.simulation.ledger import Ending, Ledger
from pilotlight.scheduler.simulation.virtual_engine import Job
from pilotlight.scheduler.simulation.virtual_node import VirtualNode
from pilotlight.store_node.protocol import (
    GenerateRequest,
    ModelId,
    NodeId,
    ReplicaId,
    RequestId,
    Sampling,
)

_PROMPT = (0,)
_SAMPLING = Sampling()


@dataclass(slots=True, eq=False, kw_only=True)
class _Request:
    """One request until its end."""

    row: int
    arrival: Arrival
    left_tokens: int
    left_seconds: float | None
    attempt: int = 0
    job: Job | None = None
    route: Route | None = None
    first_token_at: float | None = None
    lost_at: float | None = None
    is_over: bool = False

    @property
    def id(self) -> RequestId:
        return RequestId(str(self.row))


class VirtualRouter:
    """Routes the requests of one simulation."""

    def __init__(
        self,
        heap: EventHeap,
        nodes: Mapping[NodeId, VirtualNode],
        ledger: Ledger,
        *,
        timeout_seconds: float,
        handover_seconds: float,
        report: Callable[[DemandChanged], None],
    ) -> None:
        """`handover_seconds` pass between a request's arrival and its coming to a line or place."""
        self._heap = heap
        self._nodes = nodes
        self._ledger = ledger
        self._timeout_seconds = timeout_seconds
        self._handover_seconds = handover_seconds
        self._report = report
        self._model_rows: dict[ModelId, int] = {}
        self._routes = RouteTable()
        self._lines: dict[ModelId, deque[_Request]] = {}
        self._running: dict[RequestId, _Request] = {}
        self._told: dict[ModelId, tuple[int, float | None]] = {}
        self.n_open = 0
        """Requests that have arrived and not ended."""

    def note_models(self, models: Mapping[ModelId, int]) -> None:
        """Say which row of the ledger's tables each model is."""
        self._model_rows = dict(models)

    def arrive(self, arrival: Arrival) -> None:
        """Take a new request."""
        self.n_open += 1
        request = _Request(
            row=self._ledger.add(self._model_rows[arrival.model], self._heap.now),
            arrival=arrival,
            left_tokens=arrival.output_tokens,
            left_seconds=arrival.serve_seconds,
        )
        if self._handover_seconds:
            self._heap.call_at(arrival.at + self._handover_seconds, self._place, request)
        else:
            self._place(request)

    def take(self, update: AnyRouteUpdate) -> None:
        """Take over what the core says of routes."""
        match update:
            case RouteAdded():
                self._routes.add(update)
                self._dispatch(update.model)
            case RouteRemoved():
                self._routes.remove(update.replica)
                if update.is_lost:
                    self._lose(update.replica)
            case ModelRefused():
                for request in self._lines.pop(update.model, ()):
                    self._end(request, Ending.REFUSED)
                self._tell(update.model)

    def emitted(self, job: Job, *, is_last: bool) -> None:
        """Take an attempt's first or last token."""
        request = self._running.get(job.request_id)
        if request is None or request.job is not job:
            return
        if is_last:
            del self._running[job.request_id]
            self._end(request, Ending.SERVED)
            self._leave(request)
        elif request.first_token_at is None:
            request.first_token_at = self._heap.now
            self._ledger.first_token_at[request.row] = self._heap.now

    def cut(self, request_id: RequestId, attempt: int) -> None:
        """Take note that an attempt was cut by its node: it runs again elsewhere."""
        request = self._running.get(request_id)
        if request is not None and request.attempt == attempt:
            self._retry(request)

    def _place(self, request: _Request) -> None:
        model = request.arrival.model
        line = self._lines.get(model)
        if not line and self._seat(request):
            return
        if line is None:
            line = self._lines[model] = deque()
        line.append(request)
        self._heap.call_at(request.arrival.at + self._timeout_seconds, self._time_out, request)
        self._tell(model)

    def _dispatch(self, model: ModelId) -> None:
        line = self._lines.get(model)
        if line is None:
            return
        while line and self._seat(line[0]):
            line.popleft()
        if not line:
            del self._lines[model]
        self._tell(model)

    def _seat(self, request: _Request) -> bool:
        """Give a request a place; return False where there is none."""
        model = request.arrival.model
        while route := self._routes.choose(model, self._heap.now):
            if self._run(request, route):
                return True
            # Its replica is going, and the core will say so; or it stays, and is announced again.
            self._routes.remove(route.update.replica)
        return False

    def _run(self, request: _Request, route: Route) -> bool:
        """Give a request to a replica; return False where its node does not take it."""
        now, update, attempt = self._heap.now, route.update, request.attempt + 1
        emitted = request.arrival.output_tokens - request.left_tokens
        job = Job(
            request_id=request.id,
            attempt=attempt,
            replica=update.replica,
            context_tokens=request.arrival.prompt_tokens + emitted,
            left_tokens=request.left_tokens,
            left_seconds=request.left_seconds,
        )
        refusal = self._nodes[update.node].admit(
            GenerateRequest(
                request_id=request.id,
                attempt=attempt,
                epoch=update.epoch,
                incarnation=update.incarnation,
                idempotency_key="",
                deadline_seconds=self._timeout_seconds,
                replica_id=update.replica,
                prompt_ids=_PROMPT,
                sampling=_SAMPLING,
            ),
            job,
        )
        if refusal is not None:
            return False
        request.attempt, request.job, request.route = attempt, job, route
        self._routes.enter(route)
        self._running[request.id] = request
        row = request.row
        self._ledger.attempts[row] = attempt
        if attempt == 1:
            self._ledger.placed_at[row] = now
        if request.lost_at is not None and request.first_token_at is not None:
            self._ledger.paused[row] += now - request.lost_at
        request.lost_at = None
        return True

    def _leave(self, request: _Request) -> None:
        route = request.route
        assert route is not None, "it ran there"
        self._routes.leave(route)
        self._dispatch(route.update.model)

    def _lose(self, replica: ReplicaId) -> None:
        lost = [
            each
            for each in self._running.values()
            if each.route is not None and each.route.update.replica == replica
        ]
        for request in reversed(lost):
            self._retry(request)

    def _retry(self, request: _Request) -> None:
        job, route, model = request.job, request.route, request.arrival.model
        assert job is not None, "it runs"
        assert route is not None, "it runs somewhere"
        del self._running[request.id]
        emitted = self._nodes[route.update.node].emitted_tokens(job)
        if request.left_seconds is not None:
            request.left_seconds *= 1.0 - emitted / job.left_tokens
        request.left_tokens = max(request.left_tokens - emitted, 1)
        request.lost_at, request.job, request.route = self._heap.now, None, None
        self._routes.leave(route)
        self._lines.setdefault(model, deque()).appendleft(request)
        self._heap.call_at(request.arrival.at + self._timeout_seconds, self._time_out, request)
        self._dispatch(model)

    def _time_out(self, request: _Request) -> None:
        if request.is_over or request.route is not None:
            return
        model = request.arrival.model
        line = self._lines[model]
        line.remove(request)
        if not line:
            del self._lines[model]
        self._end(request, Ending.TIMED_OUT)
        self._tell(model)

    def _end(self, request: _Request, ending: Ending) -> None:
        request.is_over = True
        self.n_open -= 1
        self._ledger.ended_at[request.row] = self._heap.now
        self._ledger.ending[request.row] = ending

    def _tell(self, model: ModelId) -> None:
        line = self._lines.get(model)
        demand = (len(line), line[0].arrival.at) if line else (0, None)
        if self._told.get(model, (0, None)) != demand:
            self._told[model] = demand
            waiting, oldest = demand
            self._report(DemandChanged(model=model, waiting=waiting, oldest_arrival=oldest))
