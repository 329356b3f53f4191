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
from pilotlight.scheduler.core.plan import DecisionId
from pilotlight.scheduler.core.state import ClusterState, Replica
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


@dataclass(slots=True, kw_only=True)
class Turn:
    """What a handler may touch."""

    state: ClusterState
    columns: SnapshotBuilder
    estimator: Estimator
    settings: CoreSettings
    now: float
    actions: list[AnyAction] = field(default_factory=list[AnyAction])

    def want_plan(self) -> None:
        """Something has changed that a new plan might answer."""
        self.state.is_plan_stale = True

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

    def touch_replica(self, replica: Replica) -> None:
        """A replica changed its state, or came or went; so did its node's leases."""
        self.touch_node(replica.node)
        replica.version = self.state.version
        self.columns.touch_replicas()

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
