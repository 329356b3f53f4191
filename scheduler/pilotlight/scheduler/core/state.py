"""All that the core remembers: plain data, so that it can be written down and read back.

Numpy columns, indices and the estimator's lessons are derived from it or
learned beside it; nothing else holds state.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

from pilotlight.scheduler.core.model import Model
from pilotlight.scheduler.core.plan import AnyStep, DecisionId, EstimatedStart, Plan, StepId
from pilotlight.store_node.protocol import (
    Channel,
    ChannelId,
    CheckpointStatus,
    CompatibilityKey,
    Engine,
    Incarnation,
    LoadStatus,
    ModelId,
    NodeId,
    NodeResources,
    PoolAccounts,
    Reference,
    ReplicaId,
    ReplicaState,
    ReplicaSummary,
    StartOutcome,
)

ADOPTED = DecisionId("adopted")
"""Stands for the decision of replicas that a node was found to run."""


@dataclass(slots=True, kw_only=True)
class Node:
    """One node, from its reports."""

    id: NodeId
    incarnation: Incarnation
    address: str
    is_up: bool
    """It has a session. Its replicas outlive a short interruption of that."""
    resources: NodeResources
    engines: tuple[Engine, ...]
    package_version: str
    version: int
    """Grows with structural changes."""
    heard_at: float
    checkpoints: dict[Reference, CheckpointStatus] = field(
        default_factory=dict[Reference, CheckpointStatus]
    )
    channels: dict[ChannelId, Channel] = field(default_factory=dict[ChannelId, Channel])
    warm_workers: dict[str, int] = field(default_factory=dict[str, int])
    loads: tuple[LoadStatus, ...] = ()
    accounts: PoolAccounts | None = None

    def disk_of(self, copy: CheckpointStatus) -> ChannelId | None:
        """Return the channel that a copy is read over; its only disk's where none is named."""
        named = ChannelId(copy.ssd_channel)
        return named if named in self.channels else self.channel_of("disk")

    def channel_of(self, kind: str) -> ChannelId | None:
        """Return the node's first channel of a kind; None where it has none."""
        return next((name for name, each in self.channels.items() if each.kind == kind), None)


@dataclass(slots=True, kw_only=True)
class Replica:
    """One replica that holds devices, or is about to."""

    id: ReplicaId
    model: ModelId
    node: NodeId
    devices: int
    state: ReplicaState
    decision: DecisionId
    since: float
    """When it entered its state; monotonic seconds."""
    version: int = 0
    step: StepId | None = None
    """The start step; None where this leader did not start it."""
    created_at: float = 0.0
    sent_at: float | None = None
    """None until its node is told; nothing that a node says can be about it before."""
    concurrency: int = 1
    context_tokens: int = 0
    running: int = 0
    idle_since: float | None = None
    """None while it runs requests, or is not READY."""
    is_stopping: bool = False
    """A committed or tentative Stop names it."""
    must_go: str = ""
    """Why it is to end whatever it has to do, and is told so until it does; empty = it may stay."""
    not_cancelled_before: float = 0.0
    """A cancellation of its start has failed: until then it is not tried again."""
    is_expired: bool = False
    """It was idle for longer than its keep-alive, and a plan was asked for if it could end."""
    was_ready: bool = False
    is_expected: bool = False
    """READY, and nothing was heard since of its model's line, whose head goes there."""
    is_confirmed: bool = True
    """False where only the SQL state knows of it, its node has not reported yet."""
    estimated: EstimatedStart | None = None
    outcome: StartOutcome | None = None
    compatibility: CompatibilityKey | None = None
    summary: ReplicaSummary | None = None
    error: str = ""

    @property
    def is_live(self) -> bool:
        """True while it may hold devices."""
        return self.state not in (ReplicaState.STOPPED, ReplicaState.FAILED)

    @property
    def is_leaving(self) -> bool:
        """True where its model can't count on it any more."""
        return self.is_stopping or bool(self.must_go) or self.state is ReplicaState.DRAINING


class StepState(enum.StrEnum):
    """A step's life, see `steps`."""

    TENTATIVE = "tentative"
    COMMITTED = "committed"
    SENT = "sent"
    ACKED = "acked"
    DONE = "done"
    CANCELLED = "cancelled"
    FAILED = "failed"


@dataclass(slots=True, kw_only=True)
class PlannedStep:
    """A step of a decision, and how far it is."""

    step: AnyStep
    state: StepState
    replica: ReplicaId | None = None
    """The replica that it makes or ends."""
    note: str = ""


@dataclass(slots=True, kw_only=True)
class Decision:
    """A plan that was accepted, until all its steps have ended."""

    id: DecisionId
    policy: str
    at: float
    steps: dict[StepId, PlannedStep]


@dataclass(slots=True, kw_only=True)
class Demand:
    """What waits for one model."""

    waiting: int
    oldest_arrival: float
    was_refused: bool = False
    """Routers were told to refuse it: what is told of next came later."""


@dataclass(slots=True, kw_only=True)
class BackOff:
    """Failed starts of one model on one node."""

    model: ModelId
    node: NodeId
    failures: int
    until: float
    reason: str
    """Of the last failure."""
    is_final: bool = False
    """It would fail so again."""


@dataclass(slots=True, kw_only=True)
class ClusterState:
    """The core's memory."""

    epoch: int = 0
    models: dict[ModelId, Model] = field(default_factory=dict[ModelId, Model])
    model_versions: dict[ModelId, int] = field(default_factory=dict[ModelId, int])
    digests: dict[ModelId, str] = field(default_factory=dict[ModelId, str])
    """The first bytes digest that was learned of each model: a copy that differs is not used."""
    nodes: dict[NodeId, Node] = field(default_factory=dict[NodeId, Node])
    replicas: dict[ReplicaId, Replica] = field(default_factory=dict[ReplicaId, Replica])
    demand: dict[ModelId, Demand] = field(default_factory=dict[ModelId, Demand])
    decisions: dict[DecisionId, Decision] = field(default_factory=dict[DecisionId, Decision])
    back_offs: dict[str, BackOff] = field(default_factory=dict[str, BackOff])
    """By "model@node"."""
    pending: dict[int, DecisionId] = field(default_factory=dict[int, DecisionId])
    """Persist tokens that commit a decision."""
    next_token: int = 1
    next_decision: int = 1
    next_replica: int = 1
    version: int = 0
    """Grows with every structural change anywhere."""
    settles_at: float = 0.0
    """Until then nodes may still come back, and nothing is refused for want of them."""
    previous_plan: Plan | None = None
    plan_in_flight: int | None = None
    plan_version: int = 0
    """`version` when that plan was asked for."""
    next_plan: int = 1
    is_plan_stale: bool = False
    """Something has changed that a new plan might answer."""
    idle_timer_at: float | None = None
    """When the timer for the first idle replica to expire fires; None where it is not set."""
    idle_timer_fired_at: float | None = None
    """When it did last."""
