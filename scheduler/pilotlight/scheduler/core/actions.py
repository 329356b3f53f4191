"""What the core asks for. Drivers and simulators carry these out, one for one.

Pairs: RequestPlan → PlanProposed, Persist → Persisted | PersistFailed,
Send → Acked | Refused | Lost, SetTimer → TimerFired. Announce and Publish have
no answer.
"""

from __future__ import annotations

import msgspec

from pilotlight.scheduler.core.plan import AnyStep, DecisionId, EstimatedStart, StepId
from pilotlight.store_node.protocol import (
    CancelStartRequest,
    CompatibilityKey,
    EvictCheckpointRequest,
    FetchCheckpointRequest,
    Incarnation,
    ModelId,
    NodeId,
    ReplicaId,
    ReplicaState,
    StartOutcome,
    StartReplicaRequest,
    StopReplicaRequest,
)

Command = (
    StartReplicaRequest
    | StopReplicaRequest
    | CancelStartRequest
    | FetchCheckpointRequest
    | EvictCheckpointRequest
)


class Action(msgspec.Struct, frozen=True, kw_only=True):
    """One output of the core."""


class RequestPlan(Action, frozen=True, kw_only=True):
    """Run the policy on the present snapshot."""

    plan_id: int


class Send(Action, frozen=True, kw_only=True):
    """Send a command to a node; repeat it on connection errors, its key makes that safe."""

    node: NodeId
    incarnation: Incarnation
    decision: DecisionId
    step: StepId
    command: Command


class SetTimer(Action, frozen=True, kw_only=True):
    """Say when a time has come; a timer of the same name is replaced."""

    timer: str
    at: float
    """Monotonic seconds."""


class Persist(Action, frozen=True, kw_only=True):
    """Write these changes in one transaction, on condition of this leader's epoch."""

    token: int
    changes: tuple[AnyChange, ...]


class DecisionMade(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """A plan as committed."""

    decision: DecisionId
    policy: str
    steps: tuple[AnyStep, ...]
    rejected: tuple[RejectedStep, ...]


class DecisionEnded(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """All steps of a decision have ended."""

    decision: DecisionId
    outcome: str
    """"done", or what failed and why; one line."""


class RejectedStep(msgspec.Struct, frozen=True, kw_only=True):
    """A step that was not committed."""

    step: AnyStep
    reason: str


class ReplicaChanged(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """A replica's intended existence, or its end."""

    replica: ReplicaId
    model: ModelId
    node: NodeId
    devices: int
    state: ReplicaState
    decision: DecisionId
    error: str = ""


class NodeChanged(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """A node came or went."""

    node: NodeId
    incarnation: Incarnation
    address: str
    is_up: bool


class StartFinished(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """A start reached READY or failed; written again when its prefill is known."""

    replica: ReplicaId
    model: ModelId
    node: NodeId
    decision: DecisionId
    size_bytes: int
    age_seconds: float
    """Since the command was sent."""
    ready_seconds: float
    estimated: EstimatedStart | None
    outcome: StartOutcome | None
    error: str = ""


AnyChange = DecisionMade | DecisionEnded | ReplicaChanged | NodeChanged | StartFinished


class Announce(Action, frozen=True, kw_only=True):
    """Tell the routers."""

    update: AnyRouteUpdate


class RouteAdded(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """A replica takes requests."""

    replica: ReplicaId
    model: ModelId
    node: NodeId
    incarnation: Incarnation
    address: str
    concurrency: int
    context_tokens: int
    compatibility: CompatibilityKey | None
    epoch: int


class RouteRemoved(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """A replica takes no new requests. Its running ones go on, unless it is lost."""

    replica: ReplicaId
    is_lost: bool
    reason: str
    code: str = ""
    """Its node's word for that, where there is one."""


class ModelRefused(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """All that waits for a model is to fail with this reason."""

    model: ModelId
    reason: str


AnyRouteUpdate = RouteAdded | RouteRemoved | ModelRefused


class Publish(Action, frozen=True, kw_only=True):
    """Tell whoever watches the cluster."""

    kind: str
    text: str
    node: NodeId | None = None
    model: ModelId | None = None
    replica: ReplicaId | None = None
    decision: DecisionId | None = None
    log_tail: str = ""
    """The last lines of a worker that died."""


AnyAction = RequestPlan | Send | SetTimer | Persist | Announce | Publish
