"""What the SQL state holds, as plain values, and the changes that may be made to it.

Rows never leave this package; these do. Times are seconds since 1970.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from pilotlight.scheduler.core.model import Model


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeRecord:
    """A node that has been seen."""

    node_id: str
    incarnation: str
    address: str
    is_up: bool
    changed_at: float
    devices: int = 0
    device_kind: str = ""
    dram_bytes: int = 0
    version: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaRecord:
    """A replica that is meant to exist; an ended one has no record."""

    replica_id: str
    model: str
    node_id: str
    state: str
    devices: int
    decision_id: str
    changed_at: float
    error: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class DecisionRecord:
    """A plan as committed."""

    decision_id: str
    policy: str
    made_at: float
    plan: str
    """JSON."""
    reasons: tuple[str, ...] = ()
    """One line each, for people."""
    epoch: int = 0
    """Of the leader that wrote it; set by the store."""
    recording_offset: int = 0
    """Number of the event that it follows from, in that leader's recording."""
    outcome: str = ""
    """Empty = not finished."""
    finished_at: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Phases:
    """Seconds by phase; exclusive segments of a start's critical path."""

    queue_seconds: float
    transfer_seconds: float
    worker_seconds: float
    bind_seconds: float
    handover_seconds: float | None = None
    """From READY to the first request; None until that ran, and in estimates."""
    prefill_seconds: float | None = None
    """Of the first request; None until it ran."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StartRecord:
    """A finished start, with what was expected of it."""

    replica_id: str
    decision_id: str
    model: str
    node_id: str
    tier: str
    size_bytes: int
    bytes_read: int
    started_at: float
    ready_seconds: float
    """From the command to the node until READY, as the controller saw it."""
    first_token_seconds: float | None = None
    """From the first waiting request's arrival to its first token."""
    estimated: Phases | None = None
    measured: Phases | None = None
    checksum: str = ""
    bottleneck: str = ""
    error: str = ""
    """Empty = it succeeded."""

    @property
    def position(self) -> StartPosition:
        """Return where it stands in the list of all starts."""
        return StartPosition(self.started_at, self.replica_id)


class StartPosition(NamedTuple):
    """A place in the list of starts, which is ordered by time."""

    started_at: float
    replica_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """What a controller starts from: all models, nodes and replicas, by name."""

    models: tuple[Model, ...]
    nodes: tuple[NodeRecord, ...]
    replicas: tuple[ReplicaRecord, ...]


@dataclass(frozen=True, slots=True)
class PutModel:
    """Add a model, or replace the one of that name."""

    model: Model


@dataclass(frozen=True, slots=True)
class RemoveModel:
    """Forget a model."""

    name: str


@dataclass(frozen=True, slots=True)
class PutNode:
    """Add a node, or replace what is known of it."""

    node: NodeRecord


@dataclass(frozen=True, slots=True)
class PutReplica:
    """Add a replica, or replace it."""

    replica: ReplicaRecord


@dataclass(frozen=True, slots=True)
class RemoveReplica:
    """Forget a replica that has ended."""

    replica_id: str


@dataclass(frozen=True, slots=True)
class PutDecision:
    """Add a decision."""

    decision: DecisionRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class FinishDecision:
    """Say how a decision ended; one that is no longer kept is passed over."""

    decision_id: str
    outcome: str
    finished_at: float


@dataclass(frozen=True, slots=True)
class PutStart:
    """Add a finished start, or replace it when more is known."""

    start: StartRecord


Change = (
    PutModel
    | RemoveModel
    | PutNode
    | PutReplica
    | RemoveReplica
    | PutDecision
    | FinishDecision
    | PutStart
)
