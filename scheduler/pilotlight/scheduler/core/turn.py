"""One event's handling: the state it changes and the actions it asks for."""

from __future__ import annotations

from dataclasses import dataclass, field

from pilotlight.estimators import Estimator
from pilotlight.scheduler.core.actions import (
    Announce,
    AnyAction,
    AnyChange,
    AnyRouteUpdate,
    Persist,
    Publish,
    SetTimer,
)
from pilotlight.scheduler.core.columns import SnapshotBuilder
from pilotlight.scheduler.core.expiry import IdleExpiries
from pilotlight.scheduler.core.index import StateIndex
from pilotlight.scheduler.core.model import Model
from pilotlight.scheduler.core.needs import Needs
from pilotlight.scheduler.core.plan import DecisionId
from pilotlight.scheduler.core.state import ClusterState, Decision, Replica
from pilotlight.store_node.protocol import ModelId, NodeId, ReplicaId


@dataclass(frozen=True, slots=True, kw_only=True)
class CoreSettings:
    """Times that the core counts in, in seconds."""

    reconnect_grace_seconds: float = 2.0
    """A node whose connection broke keeps its replicas this long."""
    restore_grace_seconds: float = 10.0
    """A controller that has just begun to lead waits this long for nodes to report."""
    start_timeout_seconds: float = 900.0
    """A start that is not READY by then has failed: 600 GB at 1 GB/s, and half again."""
    first_back_off_seconds: float = 1.0
    """After a failed start of a model on a node; doubles with each further one."""
    longest_back_off_seconds: float = 60.0
    drain_seconds: float = 30.0
    """What running requests of a deleted or replaced model get."""
    command_deadline_seconds: float = 10.0
    idle_replan_seconds: float = 0.05
    """Plans that only end expired replicas are at least this far apart; 0 = each when it is due."""
    lacking_replan_seconds: float = 1.0
    """While a model lacks replicas, a plan is made this long after the last one at the latest."""


@dataclass(slots=True, kw_only=True)
class Turn:
    """What a handler may touch."""

    state: ClusterState
    index: StateIndex
    columns: SnapshotBuilder
    needs: Needs
    expiries: IdleExpiries
    estimator: Estimator
    settings: CoreSettings
    now: float
    actions: list[AnyAction] = field(default_factory=list[AnyAction])
    touched_models: dict[ModelId, None] = field(default_factory=dict[ModelId, None])
    """Whose demand changed, or whose replicas, or they themselves."""
    freed_nodes: dict[NodeId, None] = field(default_factory=dict[NodeId, None])
    """Where devices came free, or may be freed now."""
    idle_replicas: list[Replica] = field(default_factory=list[Replica])
    """That were not before."""
    is_next_plan_open: bool = False
    """A plan was taken up that does not say when the next one may differ."""
    is_plan_put_off: bool = False
    """Whatever has changed, a plan is not asked for at once: a timer will."""

    def want_plan(self) -> None:
        """Something has changed that a new plan might answer, whatever models need."""
        self.state.is_plan_stale = True

    def add_model(self, model: Model) -> None:
        """A model came or changed."""
        self.state.models[model.name] = model
        self.index.add_model(model)
        self.touch_model(model.name)

    def remove_model(self, model: ModelId) -> None:
        """A model went."""
        del self.state.models[model]
        self.state.demand.pop(model, None)
        self.index.forget_model(model)
        self.touch_model(model)
        del self.state.model_versions[model]

    def add_replica(self, replica: Replica) -> None:
        """Put a replica into the state; what it changes is seen once it is touched."""
        self.remove_replica(replica.id)
        self.state.replicas[replica.id] = replica
        self.index.add_replica(replica)

    def remove_replica(self, replica_id: ReplicaId) -> None:
        """Take a replica out of the state."""
        replica = self.state.replicas.pop(replica_id, None)
        if replica is not None:
            self.index.forget_replica(replica)

    def end_decision(self, decision: DecisionId) -> Decision | None:
        """Forget a decision; return it unless it was forgotten."""
        ended = self.state.decisions.pop(decision, None)
        if ended is not None:
            self.index.forget_decision(ended)
        return ended

    def touch_node(self, node: NodeId) -> None:
        """A node's leases, residency or liveness changed."""
        self.state.version += 1
        if node in self.state.nodes:
            self.state.nodes[node].version = self.state.version
            self.columns.touch_node(node)

    def touch_model(self, model: ModelId) -> None:
        """A model came, went or changed."""
        self.state.version += 1
        self.state.model_versions[model] = self.state.version
        self.columns.touch_shape()
        self.touched_models[model] = None

    def touch_demand(self, model: ModelId) -> None:
        """More or fewer requests wait for a model."""
        self.columns.touch_model(model)
        self.touched_models[model] = None

    def touch_back_offs(self) -> None:
        """A back-off came, went or changed."""
        self.columns.touch_back_offs()

    def touch_replica(self, replica: Replica) -> None:
        """A replica changed its state, or came or went; so did its node's leases."""
        self.touch_node(replica.node)
        replica.version = self.state.version
        self.index.count_replica(replica)
        self.columns.touch_replica(replica.id)
        self.touch_demand(replica.model)

    def note_idle(self, replica: Replica, since: float) -> None:
        """A replica fell idle, or is now known to be idle since later."""
        if replica.idle_since is None:
            self.idle_replicas.append(replica)
        if replica.idle_since != since:
            replica.idle_since = since
            self.expiries.note(replica)

    def recall_expired(self, model: ModelId) -> None:
        """Replicas of a model that have expired may perhaps end now."""
        for replica in self.index.replicas_of(model):
            if replica.is_expired:
                self.expiries.note(replica)

    def persist(self, *changes: AnyChange, commits: DecisionId | None = None) -> None:
        """Ask for changes to be written; `commits` waits for that."""
        token = self.state.next_token
        self.state.next_token += 1
        if commits is not None:
            self.state.pending[token] = commits
        self.actions.append(Persist(token=token, changes=changes))

    def announce(self, update: AnyRouteUpdate) -> None:
        """Tell the routers."""
        self.actions.append(Announce(update=update))

    def set_timer(self, timer: str, *, after_seconds: float) -> None:
        """Ask to be woken."""
        self.actions.append(SetTimer(timer=timer, at=self.now + after_seconds))

    def publish(
        self,
        kind: str,
        text: str,
        *,
        node: NodeId | None = None,
        model: ModelId | None = None,
        replica: ReplicaId | None = None,
        decision: DecisionId | None = None,
        log_tail: str = "",
    ) -> None:
        """Tell whoever watches."""
        self.actions.append(
            Publish(
                kind=kind,
                text=text,
                node=node,
                model=model,
                replica=replica,
                decision=decision,
                log_tail=log_tail,
            )
        )
