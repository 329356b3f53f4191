"""What a policy proposes: steps, each with what it presupposes."""

from __future__ import annotations

import enum
from typing import NewType

import msgspec

from pilotlight.store_node.protocol import ModelId, NodeId, Reference, ReplicaId, RequestId, Tier

StepId = NewType("StepId", str)
"""Unique within its plan."""

DecisionId = NewType("DecisionId", str)


class Subject(enum.StrEnum):
    """What a structural version is kept of."""

    NODE = "node"
    MODEL = "model"
    REPLICA = "replica"


class Read(msgspec.Struct, frozen=True):
    """One fact that a step was decided on; the step is stale once its version has grown.

    Versions grow with structural changes (leases, residency, states), not with progress.
    """

    subject: Subject
    key: str
    version: int


class Step(msgspec.Struct, frozen=True, kw_only=True, tag_field="step"):
    """One action of a plan."""

    id: StepId
    reads: tuple[Read, ...] = ()
    after: tuple[StepId, ...] = ()
    """Steps of the same plan that must be done first; this one is cancelled with them."""
    reason: str = ""
    """One line for people."""


class Start(Step, frozen=True, kw_only=True, tag="start"):
    """Bring up a replica."""

    model: ModelId
    node: NodeId
    tier: Tier
    """Where the bytes were when the step was planned."""
    evict: tuple[Reference, ...] = ()
    """Copies in DRAM that may go for it; empty = the node's evictor chooses."""
    estimated: EstimatedStart | None = None


class EstimatedStart(msgspec.Struct, frozen=True, kw_only=True):
    """What a start was expected to take, in seconds; phases are exclusive."""

    queue_seconds: float
    transfer_seconds: float
    worker_seconds: float
    bind_seconds: float
    prefill_seconds: float

    @property
    def ready_seconds(self) -> float:
        """Until the replica takes requests."""
        return self.queue_seconds + self.transfer_seconds + self.worker_seconds + self.bind_seconds


class Stop(Step, frozen=True, kw_only=True, tag="stop"):
    """Stop a replica."""

    replica: ReplicaId
    if_idle: bool = True
    """Its node refuses if it has something to do."""
    grace_seconds: float = 0.0
    """How long running requests may go on where `if_idle` is not set."""


class Preempt(Step, frozen=True, kw_only=True, tag="preempt"):
    """Stop a replica although it is busy; its requests run again elsewhere."""

    replica: ReplicaId


class Migrate(Step, frozen=True, kw_only=True, tag="migrate"):
    """Move a running request to another replica by its tokens (paper section 4)."""

    request: RequestId
    source: ReplicaId
    destination: ReplicaId


class Fetch(Step, frozen=True, kw_only=True, tag="fetch"):
    """Bring a model's checkpoint into a node's DRAM."""

    model: ModelId
    node: NodeId


class Evict(Step, frozen=True, kw_only=True, tag="evict"):
    """Drop a checkpoint's evictable chunks from a node's DRAM."""

    model: ModelId
    node: NodeId


class WaitFor(Step, frozen=True, kw_only=True, tag="wait_for"):
    """Let a model's demand wait for something that is under way; no commitment."""

    model: ModelId


class CancelStart(Step, frozen=True, kw_only=True, tag="cancel_start"):
    """Give up a start that nobody waits for any more."""

    replica: ReplicaId


class Refuse(Step, frozen=True, kw_only=True, tag="refuse"):
    """Fail all that waits for a model: nothing in the cluster can ever serve it as it is."""

    model: ModelId


AnyStep = Start | Stop | Preempt | Migrate | Fetch | Evict | WaitFor | CancelStart | Refuse


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """A policy's proposal: a partial order of steps."""

    steps: tuple[AnyStep, ...] = ()
    replan_at: float | None = None
    """Monotonic seconds at which a new plan may differ, should nothing happen before."""
