"""What the node core is told: commands, requests, and how its actions went."""

from __future__ import annotations

from dataclasses import dataclass

from pilotlight.store_node.core.copies import CheckpointCopy
from pilotlight.store_node.engines.engine import Emission, Offer
from pilotlight.store_node.protocol import (
    CancelRequestRequest,
    CancelStartRequest,
    ChannelId,
    ChecksumState,
    EvictCheckpointRequest,
    FetchCheckpointRequest,
    GenerateRequest,
    PinCheckpointRequest,
    ReplicaId,
    RequestId,
    StartReplicaRequest,
    StopReplicaRequest,
)
from pilotlight.store_node.protocol.refusals import ErrorCode

Command = (
    StartReplicaRequest
    | StopReplicaRequest
    | CancelStartRequest
    | FetchCheckpointRequest
    | EvictCheckpointRequest
    | PinCheckpointRequest
)


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandReceived:
    """The controller wants something; answered by a `Reply` among the actions."""

    ticket: int
    command: Command


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestReceived:
    """A router wants an attempt to run; answered by a `Reply`, `Deliver`s, maybe `EndStream`."""

    ticket: int
    request: GenerateRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class CancelReceived:
    """A router gives a request up; answered by a `Reply`."""

    ticket: int
    request: CancelRequestRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamClosed:
    """Nobody reads a running attempt's tokens any more."""

    request_id: RequestId
    attempt: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamOverflowed:
    """The reader of an attempt's tokens is too far behind."""

    request_id: RequestId
    attempt: int


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochSeen:
    """A controller has said which epoch it leads."""

    epoch: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CopiesFound:
    """All that lies below the model roots now."""

    copies: tuple[CheckpointCopy, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PaceFound:
    """A disk was measured, or is assumed to be that fast."""

    channel_id: ChannelId
    bytes_per_second: float


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadProgressed:
    """A load has got that far."""

    load_id: str
    done_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadSucceeded:
    """Every byte is in its chunk."""

    load_id: str
    bytes_read: int
    queue_seconds: float
    """Submitted to first block."""
    busy_seconds: float
    """First block to last; 0 where that tells nothing of the disk."""
    checksum: ChecksumState
    bytes_digest: str
    bottleneck: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadFailed:
    """A load ended, with nothing to show for it."""

    load_id: str
    code: ErrorCode | None
    """None: it was cancelled, as asked."""
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerPrepared:
    """A replica's worker has done all that needs no weights."""

    replica_id: ReplicaId
    busy_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerBound:
    """A replica's worker has attached the weights and takes requests."""

    replica_id: ReplicaId
    offer: Offer


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerDied:
    """A replica's worker is proven dead: nothing of it maps a chunk or uses a device."""

    replica_id: ReplicaId
    reason: str
    code: str = ErrorCode.WORKER_DIED
    """Its engine's own word for it, where it had one."""
    log_tail: str = ""
    """The last lines that it wrote."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkRejected:
    """A replica's engine does not take an attempt."""

    request_id: RequestId
    attempt: int
    code: ErrorCode
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TokensEmitted:
    """A replica's worker has computed tokens."""

    replica_id: ReplicaId
    emissions: tuple[Emission, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class DrainDeadline:
    """Names the timer after which a draining replica's requests are cut."""

    replica_id: ReplicaId


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestDeadline:
    """Names the timer after which a request is pointless."""

    request_id: RequestId
    attempt: int


TimerKey = DrainDeadline | RequestDeadline


@dataclass(frozen=True, slots=True, kw_only=True)
class TimerFired:
    """The time of a timer has come."""

    key: TimerKey


@dataclass(frozen=True, slots=True, kw_only=True)
class ShutdownRequested:
    """The process is to end: everything stops, nothing new begins."""

    grace_seconds: float = 0.0
    """That running requests may take to finish before they are cut."""


Event = (
    CommandReceived
    | RequestReceived
    | CancelReceived
    | StreamClosed
    | StreamOverflowed
    | EpochSeen
    | CopiesFound
    | PaceFound
    | LoadProgressed
    | LoadSucceeded
    | LoadFailed
    | WorkerPrepared
    | WorkerBound
    | WorkerDied
    | WorkRejected
    | TokensEmitted
    | TimerFired
    | ShutdownRequested
)
