"""Drives the core and a policy with virtual nodes and requests, deterministically."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from pilotlight.scheduler.core.actions import (
    Announce,
    AnyAction,
    ModelRefused,
    Persist,
    RequestPlan,
    RouteAdded,
    RouteRemoved,
    Send,
    SetTimer,
)
from pilotlight.scheduler.core.core import Core
from pilotlight.scheduler.core.events import (
    Acked,
    AnyEvent,
    DemandChanged,
    ModelDeployed,
    NodeJoined,
    NodeUpdated,
    Persisted,
    PlanProposed,
    Refused,
    Restored,
    TimerFired,
)
from pilotlight.scheduler.core.model import Model
from pilotlight.scheduler.policies import Policy
from pilotlight.scheduler.simulation.event_heap import EventHeap
from pilotlight.scheduler.simulation.virtual_node import VirtualNode
from pilotlight.store_node.protocol import ModelId, NodeId, NodeUpdate, ReplicaId

PERSIST_SECONDS = 0.001
COMMAND_SECONDS = 0.002


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrival:
    """One request."""

    at: float
    model: ModelId
    serve_seconds: float
    """From its first token to its last."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """What became of one request."""

    arrival: Arrival
    node: NodeId | None
    """None where it was refused."""
    first_token_at: float
    refusal: str = ""


@dataclass(slots=True)
class _Route:
    update: RouteAdded
    running: int = 0


@dataclass(slots=True)
class Simulation:
    """One run. The recorder sees every event that the core is given."""

    core: Core
    policy: Policy
    heap: EventHeap = field(default_factory=EventHeap)
    nodes: dict[NodeId, VirtualNode] = field(default_factory=dict[NodeId, VirtualNode])
    served: list[Served] = field(default_factory=list[Served])
    recorded: list[tuple[float, AnyEvent]] = field(default_factory=list[tuple[float, AnyEvent]])
    _waiting: dict[ModelId, deque[Arrival]] = field(default_factory=dict[ModelId, "deque[Arrival]"])
    _routes: dict[ReplicaId, _Route] = field(default_factory=dict[ReplicaId, _Route])
    _timers: dict[str, float] = field(default_factory=dict[str, float])
    _inbox: deque[AnyEvent] = field(default_factory=deque[AnyEvent])
    _is_handling: bool = False

    def begin(self, models: Sequence[Model], nodes: Sequence[VirtualNode]) -> None:
        """Deploy the models and let the nodes join."""
        self._post(Restored(epoch=1, models=(), replicas=()))
        for model in models:
            self._post(ModelDeployed(model=model))
        for node in nodes:
            self.nodes[node.id] = node
            node.report_to = self._reported
            self._post(NodeJoined(report=node.report()))

    def request(self, arrival: Arrival) -> None:
        """Let a request arrive at its time."""
        self.heap.call_at(arrival.at, self._arrive, arrival)

    def run_until(self, end: float) -> None:
        """Run up to `end` seconds."""
        self.heap.run_until(end)

    def _post(self, event: AnyEvent) -> None:
        """Give the core an event, after those that led to it are done with."""
        self._inbox.append(event)
        if self._is_handling:
            return
        self._is_handling = True
        while self._inbox:
            self._handle(self._inbox.popleft())
        self._is_handling = False

    def _handle(self, event: AnyEvent) -> None:
        self.recorded.append((self.heap.now, event))
        for action in self.core.handle(event, self.heap.now):
            self._act(action)

    def _act(self, action: AnyAction) -> None:
        now = self.heap.now
        match action:
            case RequestPlan():
                self.heap.call_at(now, self._plan, action.plan_id)
            case Persist():
                self.heap.call_at(now + PERSIST_SECONDS, self._post, Persisted(token=action.token))
            case Send():
                self.heap.call_at(now + COMMAND_SECONDS, self._send, action)
            case SetTimer():
                self._timers[action.timer] = action.at
                self.heap.call_at(action.at, self._fire, (action.timer, action.at))
            case Announce():
                self._announced(action)
            case _:
                pass

    def _plan(self, plan_id: int) -> None:
        plan = self.policy.plan(self.core.snapshot(self.heap.now), self.core.estimator)
        self._post(PlanProposed(plan_id=plan_id, policy=self.policy.name, plan=plan))

    def _send(self, action: Send) -> None:
        reason = self.nodes[action.node].carry_out(action.command)
        if reason:
            self._post(
                Refused(decision=action.decision, step=action.step, code="refused", reason=reason)
            )
        else:
            self._post(Acked(decision=action.decision, step=action.step))

    def _fire(self, timer: tuple[str, float]) -> None:
        name, at = timer
        if self._timers.get(name) == at:
            del self._timers[name]
            self._post(TimerFired(timer=name))

    def _reported(self, report: tuple[NodeId, NodeUpdate]) -> None:
        node, update = report
        self._post(NodeUpdated(node=node, incarnation=self.nodes[node].incarnation, update=update))

    def _announced(self, action: Announce) -> None:
        update = action.update
        match update:
            case RouteAdded():
                self._routes.setdefault(update.replica, _Route(update))
                self._dispatch(update.model)
            case RouteRemoved():
                self._routes.pop(update.replica, None)
            case ModelRefused():
                for arrival in self._waiting.pop(update.model, ()):
                    self.served.append(
                        Served(
                            arrival=arrival,
                            node=None,
                            first_token_at=float("inf"),
                            refusal=update.reason,
                        )
                    )
                self._demand(update.model)

    def _arrive(self, arrival: Arrival) -> None:
        self._waiting.setdefault(arrival.model, deque()).append(arrival)
        self._dispatch(arrival.model)

    def _dispatch(self, model: ModelId) -> None:
        waiting = self._waiting.get(model, deque())
        while waiting:
            route = self._free_route(model)
            if route is None:
                break
            self._serve(waiting.popleft(), route)
        self._demand(model)

    def _free_route(self, model: ModelId) -> _Route | None:
        routes = (r for r in self._routes.values() if r.update.model == model)
        return next((r for r in routes if r.running < r.update.concurrency), None)

    def _serve(self, arrival: Arrival, route: _Route) -> None:
        route.running += 1
        node = self.nodes[route.update.node]
        node.begin(route.update.replica)
        first_token_at = self.heap.now + node.speeds.prefill_seconds
        self.served.append(
            Served(arrival=arrival, node=route.update.node, first_token_at=first_token_at)
        )
        self.heap.call_at(first_token_at + arrival.serve_seconds, self._finish, route)

    def _finish(self, route: _Route) -> None:
        route.running -= 1
        self.nodes[route.update.node].end(route.update.replica)
        self._dispatch(route.update.model)

    def _demand(self, model: ModelId) -> None:
        waiting = self._waiting.get(model)
        self._post(
            DemandChanged(
                model=model,
                waiting=len(waiting) if waiting else 0,
                oldest_arrival=waiting[0].at if waiting else None,
            )
        )
