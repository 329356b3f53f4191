"""A core whose every answer a test gives itself.

stage = Stage()
stage.deploy("llama-8b")
stage.join("a", holds=["llama-8b"])
stage.demand("llama-8b", 1)
stage.plan(policy)
stage.commit()
stage.ack(stage.start_of("llama-8b"))
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeVar

from pilotlight.estimators import Estimator, StartEstimator
from pilotlight.scheduler.core.actions import (
    Announce,
    AnyAction,
    AnyChange,
    AnyRouteUpdate,
    Persist,
    Publish,
    RequestPlan,
    Send,
    SetTimer,
)
from pilotlight.scheduler.core.core import Core
from pilotlight.scheduler.core.events import (
    Acked,
    AnyEvent,
    DemandChanged,
    KnownNode,
    KnownReplica,
    Lost,
    ModelDeleted,
    ModelDeployed,
    NodeDisconnected,
    NodeJoined,
    NodeUpdated,
    Persisted,
    PersistFailed,
    PlanProposed,
    Refused,
    Restored,
    TimerFired,
)
from pilotlight.scheduler.core.model import Model
from pilotlight.scheduler.core.plan import Plan, Read, Start, StepId, Stop
from pilotlight.scheduler.core.state import Replica
from pilotlight.scheduler.core.turn import CoreSettings
from pilotlight.scheduler.policies import Policy, ServerlessLLM
from pilotlight.scheduler.testing.reports import model_of, report_of, status_of, summary_of
from pilotlight.store_node.protocol import (
    CancelStartRequest,
    CheckpointStatus,
    Incarnation,
    ModelId,
    NodeId,
    NodeReport,
    NodeUpdate,
    ReplicaId,
    ReplicaState,
    ReplicaStatus,
    StartReplicaRequest,
    StopReplicaRequest,
    Tier,
)

C = TypeVar("C", bound=AnyChange)

MOST_ROUNDS = 100
"""Plans in a row, or commands, after which a core has to be content."""


class Stage:
    """A core, a clock that stands still, and what the core has asked for.

    After every event the core's integrity is checked.
    """

    def __init__(
        self,
        *,
        models: Iterable[Model] = (),
        replicas: Iterable[KnownReplica] = (),
        nodes: Iterable[KnownNode] = (),
        settings: CoreSettings | None = None,
        estimator: Estimator | None = None,
        is_settled: bool = True,
    ) -> None:
        self.estimator: Estimator = estimator or StartEstimator()
        self.core = Core(estimator=self.estimator, settings=settings)
        self.now = 0.0
        self.events: list[tuple[float, AnyEvent]] = []
        self.actions: list[AnyAction] = []
        """All so far."""
        self.plans: list[int] = []
        """Plans asked for and not answered."""
        self.persists: list[Persist] = []
        """Not answered."""
        self.sends: list[Send] = []
        """Not answered."""
        self.timers: dict[str, float] = {}
        self.routes: list[AnyRouteUpdate] = []
        """All that routers were told."""
        self.published: list[Publish] = []
        self._incarnations: dict[str, Incarnation] = {}
        self.handle(
            Restored(epoch=1, models=tuple(models), replicas=tuple(replicas), nodes=tuple(nodes))
        )
        if is_settled:
            self.pass_time(CoreSettings().restore_grace_seconds)

    # What happens.

    def handle(self, event: AnyEvent) -> list[AnyAction]:
        """Give the core an event; return what it asks for."""
        self.events.append((self.now, event))
        actions = self.core.handle(event, self.now)
        self.core.check_integrity()
        self.actions += actions
        for action in actions:
            self._sort(action)
        return actions

    def pass_time(self, seconds: float) -> None:
        """Let time pass, and timers fire on the way."""
        end = self.now + seconds
        while due := sorted((at, name) for name, at in self.timers.items() if at <= end):
            at, name = due[0]
            del self.timers[name]
            self.now = max(self.now, at)
            self.handle(TimerFired(timer=name))
        self.now = end

    def deploy(self, name: str, **fields: Any) -> Model:
        """Deploy a model; `fields` are those of `Model`."""
        model = model_of(name, **fields)
        self.handle(ModelDeployed(model=model))
        return model

    def delete(self, name: str) -> None:
        """Delete a model."""
        self.handle(ModelDeleted(model=ModelId(name)))

    def join(
        self,
        node: str,
        *,
        holds: Iterable[CheckpointStatus | str] = (),
        replicas: Iterable[ReplicaStatus] = (),
        **fields: Any,
    ) -> NodeReport:
        """Let a node join with a full report; `fields` are those of `report_of`."""
        report = report_of(node, holds=holds, replicas=tuple(replicas), **fields)
        self._incarnations[node] = report.incarnation
        self.handle(NodeJoined(report=report))
        return report

    def disconnect(self, node: str, *, may_return: bool = False) -> None:
        """Let a node's session end."""
        self.handle(
            NodeDisconnected(
                node=NodeId(node),
                incarnation=self.incarnation(node),
                reason="it fell silent",
                may_return=may_return,
            )
        )

    def update(self, node: str, **fields: Any) -> None:
        """Let a node report changes; `fields` are those of `NodeUpdate`."""
        self.handle(
            NodeUpdated(
                node=NodeId(node), incarnation=self.incarnation(node), update=NodeUpdate(**fields)
            )
        )

    def demand(self, model: str, waiting: int, *, waited_seconds: float = 0.0) -> None:
        """Let requests wait for a model."""
        oldest = self.now - waited_seconds if waiting else None
        self.handle(DemandChanged(model=ModelId(model), waiting=waiting, oldest_arrival=oldest))

    # What the shell answers.

    def plan(self, plan: Plan | Policy | None = None) -> Plan:
        """Answer the plan asked for with a given one, or with a policy's."""
        if not isinstance(plan, Plan):
            policy = plan or ServerlessLLM()
            plan = policy.plan(self.core.snapshot(self.now), self.estimator)
        plan_id = self.plans.pop(0)
        self.handle(PlanProposed(plan_id=plan_id, policy="test", plan=plan))
        return plan

    def commit(self) -> None:
        """Answer every transaction: committed."""
        while self.persists:
            self.handle(Persisted(token=self.persists.pop(0).token))

    def fail_commit(self) -> None:
        """Answer every transaction asked for so far: not committed."""
        failing, self.persists = self.persists, []
        for persist in failing:
            self.handle(PersistFailed(token=persist.token, reason="the disk is full"))

    def settle(self, policy: Policy | None = None) -> None:
        """Answer plans and transactions until none is open; commands stay unanswered."""
        for _ in range(MOST_ROUNDS):
            if not (self.plans or self.persists):
                return
            if self.plans:
                self.plan(policy)
            self.commit()
        raise AssertionError("plans lead to plans for ever")

    def obey(self, send: Send) -> None:
        """Answer a command as a node does that can carry it out at once."""
        self.ack(send)
        match send.command:
            case StopReplicaRequest() | CancelStartRequest():
                ends, state = send.command.replica_id, ReplicaState.STOPPED
            case StartReplicaRequest():
                ends, state = send.command.spec.replica_id, ReplicaState.READY
            case _:
                return
        if ends in self.core.state.replicas:
            self.report(ends, state)

    def obey_all(self) -> None:
        """Let nodes and shell do all they are asked for, and what follows from it."""
        for _ in range(MOST_ROUNDS):
            self.settle()
            if not self.sends:
                return
            self.obey(self.sends[0])
        raise AssertionError("commands lead to commands for ever")

    def ack(self, send: Send) -> None:
        """Answer a command: the node carries it out."""
        self.sends.remove(send)
        self.handle(Acked(decision=send.decision, step=send.step))

    def refuse(self, send: Send, *, code: str = "refused", reason: str = "not now") -> None:
        """Answer a command: the node does not."""
        self.sends.remove(send)
        self.handle(Refused(decision=send.decision, step=send.step, code=code, reason=reason))

    def lose(self, send: Send) -> None:
        """Answer a command: unknown."""
        self.sends.remove(send)
        self.handle(Lost(decision=send.decision, step=send.step, reason="no answer"))

    def report(self, replica: Replica | ReplicaId, state: ReplicaState, **fields: Any) -> None:
        """Let a replica's node say what state it is in; `fields` are those of `ReplicaStatus`."""
        known = self.replica(replica)
        status = status_of(known.id, known.model, state, **fields)
        self.update(known.node, replicas=(status,))

    def traffic(
        self, replica: Replica | ReplicaId, *, running: int = 0, idle_seconds: float = 0.0
    ) -> None:
        """Let a replica's node report its traffic."""
        known = self.replica(replica)
        summary = summary_of(known.id, running=running, idle_seconds=idle_seconds)
        self.update(known.node, summaries=(summary,), has_summaries=True)

    def bring_up(self, model: str) -> Replica:
        """Let a request wait for a model until a replica of it is READY and idle."""
        self.demand(model, 1)
        self.settle()
        send = next(send for send in self.sends if _starts(send, model))
        self.ack(send)
        assert isinstance(send.command, StartReplicaRequest)
        replica = self.replica(send.command.spec.replica_id)
        self.report(replica, ReplicaState.READY)
        self.demand(model, 0)
        self.traffic(replica)
        self.settle()
        return replica

    # What is there.

    def replica(self, replica: Replica | ReplicaId | str) -> Replica:
        """Return a replica that lives."""
        key = replica.id if isinstance(replica, Replica) else ReplicaId(replica)
        return self.core.state.replicas[key]

    def replicas(self, model: str = "") -> list[Replica]:
        """Return the replicas that live, of one model or of all."""
        replicas = self.core.state.replicas.values()
        return [replica for replica in replicas if not model or replica.model == model]

    def incarnation(self, node: str) -> Incarnation:
        """Return the incarnation in which a node joined last; its first before that."""
        return self._incarnations.get(node, Incarnation(f"{node}-1"))

    def changes(self, kind: type[C]) -> list[C]:
        """Return all that was to be written of one kind."""
        persists = [action for action in self.actions if isinstance(action, Persist)]
        written = [change for persist in persists for change in persist.changes]
        return [change for change in written if isinstance(change, kind)]

    def _sort(self, action: AnyAction) -> None:
        match action:
            case RequestPlan():
                self.plans.append(action.plan_id)
            case Persist():
                self.persists.append(action)
            case Send():
                self.sends.append(action)
            case SetTimer():
                self.timers[action.timer] = action.at
            case Announce():
                self.routes.append(action.update)
            case Publish():
                self.published.append(action)
            case _:
                raise AssertionError(f"unknown action {action}")


def start_step(
    model: str,
    node: str,
    *,
    id_: str = "start",
    reads: Iterable[Read] = (),
    after: Iterable[str] = (),
) -> Start:
    """Return a step that starts a model."""
    return Start(
        id=StepId(id_),
        reads=tuple(reads),
        after=tuple(map(StepId, after)),
        model=ModelId(model),
        node=NodeId(node),
        tier=Tier.SSD,
    )


def stop_step(replica: Replica, *, id_: str = "stop") -> Stop:
    """Return a step that stops a replica if it is idle."""
    return Stop(id=StepId(id_), replica=replica.id)


def _starts(send: Send, model: str) -> bool:
    return isinstance(send.command, StartReplicaRequest) and send.command.spec.model == model
