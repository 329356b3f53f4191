"""What the node core asks for; the shell carries these out in order, one for one."""

from __future__ import annotations

from dataclasses import dataclass

from pilotlight.store_node.core.events import TimerKey
from pilotlight.store_node.engines.engine import Emission, Work
from pilotlight.store_node.protocol import Reference, ReplicaId, ReplicaSpec, RequestId
from pilotlight.store_node.protocol.refusals import Refusal


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """Answer the command or request of that ticket; no refusal means that it is carried out."""

    ticket: int
    refusal: Refusal | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AllocateChunks:
    """Take chunks for a checkpoint from the free ones; they are cached then."""

    reference: Reference
    n_chunks: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BindChunks:
    """Move a loaded checkpoint's chunks from the cached to the bound account."""

    reference: Reference


@dataclass(frozen=True, slots=True, kw_only=True)
class UnbindChunks:
    """Move a checkpoint's chunks from the bound to the cached account."""

    reference: Reference


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleaseChunks:
    """Give a checkpoint's cached chunks back to the free ones."""

    reference: Reference


@dataclass(frozen=True, slots=True, kw_only=True)
class SubmitLoad:
    """Read a checkpoint into its chunks; ends with LoadSucceeded or LoadFailed."""

    load_id: str
    reference: Reference
    priority: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PromoteLoad:
    """Give a load a higher priority."""

    load_id: str
    priority: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CancelLoad:
    """End a load soon; it still ends with LoadSucceeded or LoadFailed."""

    load_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TakeWorker:
    """Give a replica a worker and prepare it: WorkerPrepared or WorkerDied follows."""

    spec: ReplicaSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class BindWorker:
    """Attach a checkpoint's chunks in a replica's worker: WorkerBound or WorkerDied follows."""

    replica_id: ReplicaId
    reference: Reference


@dataclass(frozen=True, slots=True, kw_only=True)
class KillWorker:
    """End a replica's worker: WorkerDied follows."""

    replica_id: ReplicaId


@dataclass(frozen=True, slots=True, kw_only=True)
class AdmitWork:
    """Hand an attempt to a replica's engine; WorkRejected may follow."""

    replica_id: ReplicaId
    work: Work


@dataclass(frozen=True, slots=True, kw_only=True)
class CancelWork:
    """Have a replica's engine forget a request."""

    replica_id: ReplicaId
    request_id: RequestId


@dataclass(frozen=True, slots=True, kw_only=True)
class Deliver:
    """Pass tokens on to the reader of an attempt; a finish reason among them ends the stream."""

    emission: Emission


@dataclass(frozen=True, slots=True, kw_only=True)
class EndStream:
    """End an attempt's stream before it has finished, and say why."""

    request_id: RequestId
    attempt: int
    refusal: Refusal


@dataclass(frozen=True, slots=True, kw_only=True)
class SetTimer:
    """Say when that time has come; replaces a timer of the same key."""

    key: TimerKey
    at: float
    """Monotonic seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClearTimer:
    """Forget a timer."""

    key: TimerKey


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportReplica:
    """A replica's status has changed."""

    replica_id: ReplicaId


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportCheckpoint:
    """A checkpoint's status has changed, or it is gone."""

    reference: Reference


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportLoads:
    """A load has begun, ended or got on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportIdle:
    """A replica has nothing to do any more: its devices may be wanted elsewhere."""


Action = (
    Reply
    | AllocateChunks
    | BindChunks
    | UnbindChunks
    | ReleaseChunks
    | SubmitLoad
    | PromoteLoad
    | CancelLoad
    | TakeWorker
    | BindWorker
    | KillWorker
    | AdmitWork
    | CancelWork
    | Deliver
    | EndStream
    | SetTimer
    | ClearTimer
    | ReportReplica
    | ReportCheckpoint
    | ReportLoads
    | ReportIdle
)
