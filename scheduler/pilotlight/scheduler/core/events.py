"""What the core is told. The recording is the sequence of these."""

from __future__ import annotations

import msgspec

from pilotlight.scheduler.core.model import Model
from pilotlight.scheduler.core.plan import DecisionId, Plan, StepId
from pilotlight.store_node.protocol import (
    Incarnation,
    ModelId,
    NodeId,
    NodeReport,
    NodeResources,
    NodeUpdate,
    ReplicaId,
)


class Event(msgspec.Struct, frozen=True, kw_only=True, tag_field="event", tag=True):
    """One input of the core."""


class KnownReplica(msgspec.Struct, frozen=True, kw_only=True):
    """A replica that the SQL state says should run."""

    replica: ReplicaId
    model: ModelId
    node: NodeId
    devices: int
    decision: DecisionId


class KnownNode(msgspec.Struct, frozen=True, kw_only=True):
    """A node that the SQL state knows."""

    node: NodeId
    incarnation: Incarnation
    address: str
    resources: NodeResources
    package_version: str = ""


class Restored(Event, frozen=True, kw_only=True):
    """The controller has begun to lead; comes first, once."""

    epoch: int
    models: tuple[Model, ...]
    replicas: tuple[KnownReplica, ...]
    nodes: tuple[KnownNode, ...] = ()


class EpochRaised(Event, frozen=True, kw_only=True):
    """A node reported a higher epoch, so this leader took a higher one still."""

    epoch: int


class ModelDeployed(Event, frozen=True, kw_only=True):
    """A model is in the SQL state, new or changed."""

    model: Model


class ModelDeleted(Event, frozen=True, kw_only=True):
    """A model is gone from the SQL state."""

    model: ModelId


class FetchAsked(Event, frozen=True, kw_only=True):
    """A user wants a model's checkpoint in the DRAM of these nodes."""

    model: ModelId
    nodes: tuple[NodeId, ...]


class EvictAsked(Event, frozen=True, kw_only=True):
    """A user wants a model's checkpoint out of the DRAM of these nodes."""

    model: ModelId
    nodes: tuple[NodeId, ...]


class NodeJoined(Event, frozen=True, kw_only=True):
    """A node has acknowledged the epoch with a full report."""

    report: NodeReport


class NodeUpdated(Event, frozen=True, kw_only=True):
    """A node reported changes; also its heartbeat."""

    node: NodeId
    incarnation: Incarnation
    update: NodeUpdate


class NodeDisconnected(Event, frozen=True, kw_only=True):
    """A node's session has ended."""

    node: NodeId
    incarnation: Incarnation
    reason: str
    may_return: bool
    """True where the connection broke, which a living node mends at once; False where it was
    silent for too long."""


class DemandChanged(Event, frozen=True, kw_only=True):
    """How many requests wait for a model, from the router."""

    model: ModelId
    waiting: int
    oldest_arrival: float | None = None
    """Monotonic seconds; None where none waits."""


class PlanProposed(Event, frozen=True, kw_only=True):
    """The answer to RequestPlan."""

    plan_id: int
    policy: str
    plan: Plan
    failure: str = ""
    """Why the configured policy was replaced by the built-in one for this plan."""


class Persisted(Event, frozen=True, kw_only=True):
    """The answer to Persist: committed."""

    token: int


class PersistFailed(Event, frozen=True, kw_only=True):
    """The answer to Persist: not committed."""

    token: int
    reason: str


class Acked(Event, frozen=True, kw_only=True):
    """The answer to Send: the node carries it out."""

    decision: DecisionId
    step: StepId


class Refused(Event, frozen=True, kw_only=True):
    """The answer to Send: the node does not."""

    decision: DecisionId
    step: StepId
    code: str
    """A word for programs, from the node's error table."""
    reason: str


class Lost(Event, frozen=True, kw_only=True):
    """The answer to Send: unknown, the node could not be asked."""

    decision: DecisionId
    step: StepId
    reason: str


class TimerFired(Event, frozen=True, kw_only=True):
    """The answer to SetTimer."""

    timer: str


AnyEvent = (
    Restored
    | EpochRaised
    | ModelDeployed
    | ModelDeleted
    | FetchAsked
    | EvictAsked
    | NodeJoined
    | NodeUpdated
    | NodeDisconnected
    | DemandChanged
    | PlanProposed
    | Persisted
    | PersistFailed
    | Acked
    | Refused
    | Lost
    | TimerFired
)
