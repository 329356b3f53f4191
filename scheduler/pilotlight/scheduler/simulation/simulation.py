"""Drives the core, a policy, nodes and a router on one virtual clock, deterministically.

Theory of operation. The core's actions are answered as the driver answers them,
each after a delay that is a parameter: a plan is made on the snapshot of its
moment, a transaction commits, a command reaches its node, a timer fires. All
else that happens (loads, workers, tokens) happens on the nodes. Equal inputs
give equal runs, event by event.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from pilotlight.scheduler.core.actions import (
    Announce,
    AnyAction,
    Persist,
    RequestPlan,
    Send,
    SetTimer,
)
from pilotlight.scheduler.core.core import Core
from pilotlight.scheduler.core.events import (
    Acked,
    AnyEvent,
    FetchAsked,
    Lost,
    ModelDeployed,
    NodeDisconnected,
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
from pilotlight.scheduler.simulation.arrivals import Arrival
from pilotlight.scheduler.simulation.event_heap import EventHeap
from pilotlight.scheduler.simulation.ledger import Ledger
from pilotlight.scheduler.simulation.tally import Tally
from pilotlight.scheduler.simulation.virtual_engine import Job
from pilotlight.scheduler.simulation.virtual_node import VirtualNode
from pilotlight.scheduler.simulation.virtual_router import VirtualRouter
from pilotlight.store_node.protocol import ModelId, NodeId, NodeUpdate, RequestId
from pilotlight.store_node.protocol.refusals import Refusal


@dataclass(frozen=True, slots=True, kw_only=True)
class Delays:
    """What the controller's own work takes, in seconds."""

    plan_seconds: float = 0.0
    """From a plan's being asked for until its snapshot is taken; what happens in between is
    planned for together."""
    persist_seconds: float = 0.001
    command_seconds: float = 0.002
    handover_seconds: float = 0.0
    """From a request's arrival until it stands in line."""
    detect_seconds: float = 1.0
    """Until a node that is gone, or out of reach, is known to be."""
    timeout_seconds: float = 300.0
    """That a request waits, at most."""


class Simulation:
    """One run."""

    def __init__(
        self,
        *,
        core: Core,
        policy: Policy,
        heap: EventHeap,
        delays: Delays | None = None,
        on_event: Callable[[float, AnyEvent], None] = lambda now, event: None,
    ) -> None:
        """`on_event` sees every event that the core is given."""
        self.core = core
        self.heap = heap
        self.delays = delays or Delays()
        self.ledger = Ledger()
        self.tally = Tally()
        self.nodes: dict[NodeId, VirtualNode] = {}
        self.router = VirtualRouter(
            heap,
            self.nodes,
            self.ledger,
            timeout_seconds=self.delays.timeout_seconds,
            handover_seconds=self.delays.handover_seconds,
            report=self._post,
        )
        self._policy = policy
        self._on_event = on_event
        self._out_of_reach: set[NodeId] = set()
        self._timers: dict[str, float] = {}
        self._inbox: deque[AnyEvent] = deque()
        self._is_handling = False
        self._arrivals: Iterator[Arrival] = iter(())
        self._is_fed = True

    def begin(self, models: Sequence[Model], nodes: Iterable[VirtualNode]) -> None:
        """Deploy the models and let the nodes join."""
        self.router.note_models({model.name: row for row, model in enumerate(models)})
        self._post(Restored(epoch=1, models=(), replicas=()))
        for model in models:
            self._post(ModelDeployed(model=model))
        for node in nodes:
            self.nodes[node.id] = node
            self._post(NodeJoined(report=node.report()))

    def fetch(self, model: ModelId, nodes: Sequence[NodeId]) -> None:
        """Bring a model's checkpoint into the DRAM of nodes, as a user would."""
        self._post(FetchAsked(model=model, nodes=tuple(nodes)))

    def feed(self, arrivals: Iterable[Arrival]) -> None:
        """Let requests arrive, in the order of their times; one of them is held at a time."""
        self._arrivals, self._is_fed = iter(arrivals), False
        self._expect_arrival()

    def run_until(self, end: float) -> None:
        """Run up to `end` seconds."""
        self.heap.run_until(end)

    def run(self, *, limit: float = float("inf")) -> float:
        """Run until every request has ended, at most up to `limit` seconds; return the time."""
        while not (self._is_fed and not self.router.n_open) and self.heap.now < limit:
            if not self.heap.run_next(limit):
                break
        return self.heap.now

    # -- failures

    def lose_node(self, node: NodeId, *, back_after: float | None = None) -> None:
        """A node dies with all that ran there; maybe it comes back, with empty memory."""
        self.nodes[node].crash()
        self._out_of_reach.add(node)
        self._later(self.delays.detect_seconds, self._node_found_silent, node)
        if back_after is not None:
            self._later(max(back_after, self.delays.detect_seconds), self._node_comes_back, node)

    def cut_off(self, node: NodeId, *, seconds: float) -> None:
        """A node is out of the controller's reach for a while, and goes on meanwhile."""
        self._out_of_reach.add(node)
        incarnation = self.nodes[node].incarnation
        self._post(
            NodeDisconnected(
                node=node, incarnation=incarnation, reason="its link is down", may_return=True
            )
        )
        self._later(seconds, self._node_is_reached, node)

    def _node_found_silent(self, node: NodeId) -> None:
        state = self.core.state.nodes[node]
        self._post(
            NodeDisconnected(
                node=node,
                incarnation=state.incarnation,
                reason="it is silent",
                may_return=False,
            )
        )

    def _node_comes_back(self, node: NodeId) -> None:
        self.nodes[node].restart()
        self._node_is_reached(node)

    def _node_is_reached(self, node: NodeId) -> None:
        self._out_of_reach.discard(node)
        self._post(NodeJoined(report=self.nodes[node].report()))

    # -- the core's actions

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
        now = self.heap.now
        self._on_event(now, event)
        for action in self.core.handle(event, now):
            self.tally.note(action, now)
            self._act(action)

    def _act(self, action: AnyAction) -> None:
        match action:
            case RequestPlan():
                self._later(self.delays.plan_seconds, self._plan, action.plan_id)
            case Persist():
                self._later(self.delays.persist_seconds, self._post, Persisted(token=action.token))
            case Send():
                self._later(self.delays.command_seconds, self._send, action)
            case SetTimer():
                self._timers[action.timer] = action.at
                self.heap.call_at(action.at, self._fire, (action.timer, action.at))
            case Announce():
                self.router.take(action.update)
            case _:
                pass

    def _plan(self, plan_id: int) -> None:
        plan = self._policy.plan(self.core.snapshot(self.heap.now), self.core.estimator)
        self._post(PlanProposed(plan_id=plan_id, policy=self._policy.name, plan=plan))

    def _send(self, action: Send) -> None:
        decision, step = action.decision, action.step
        if action.node in self._out_of_reach:
            self._post(Lost(decision=decision, step=step, reason=f"{action.node} is silent"))
            return
        refusal = self.nodes[action.node].command(action.command)
        if refusal is None:
            self._post(Acked(decision=decision, step=step))
        else:
            self._post(
                Refused(decision=decision, step=step, code=refusal.code, reason=refusal.message)
            )

    def _fire(self, timer: tuple[str, float]) -> None:
        name, at = timer
        if self._timers.get(name) == at:
            del self._timers[name]
            self._post(TimerFired(timer=name))

    # -- what nodes say

    def node_reported(self, node: VirtualNode, update: NodeUpdate) -> None:
        """A node's state has changed."""
        if node.id not in self._out_of_reach:
            self._post(NodeUpdated(node=node.id, incarnation=node.incarnation, update=update))

    def emitted(self, job: Job, *, is_last: bool) -> None:
        """An attempt has its first token, or its last."""
        self.router.emitted(job, is_last=is_last)

    def cut(self, request_id: RequestId, attempt: int, refusal: Refusal) -> None:
        """An attempt ended before it was finished."""
        self.router.cut(request_id, attempt)

    # -- requests

    def _expect_arrival(self) -> None:
        arrival = next(self._arrivals, None)
        if arrival is None:
            self._is_fed = True
        else:
            self.heap.call_at(arrival.at, self._arrive, arrival)

    def _arrive(self, arrival: Arrival) -> None:
        self.router.arrive(arrival)
        self._expect_arrival()

    def _later(self, seconds: float, function: Callable[[Any], None], argument: Any) -> None:
        self.heap.call_at(self.heap.now + seconds, function, argument)
