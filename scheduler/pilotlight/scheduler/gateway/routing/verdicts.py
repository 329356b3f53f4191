"""What the end of an attempt means for its request."""

from __future__ import annotations

import enum

from pilotlight.scheduler.errors import InvalidRequest, ModelBroken, SchedulerError
from pilotlight.scheduler.gateway.routing.node_streams import AttemptEnded
from pilotlight.store_node.protocol.refusals import ErrorCode

MOST_WORKERS_KILLED = 2
"""A request whose worker dies this often is taken for the cause."""

MOST_LOSSES = 5
"""Attempts that may end by a broken connection or a stopped replica."""

_FULL_PAUSE_SECONDS = 0.1
_UNREACHABLE_PAUSE_SECONDS = 1.0


class Verdict(enum.Enum):
    """What to do with a request whose attempt has ended without a finish reason."""

    NOT_TAKEN = enum.auto()
    """The node did not take it: it goes elsewhere, and nothing is lost."""
    LOST = enum.auto()
    """It ran, and its place is gone."""
    WORKER_KILLED = enum.auto()
    """It ran, and its worker died; perhaps because of it."""
    TOO_LATE = enum.auto()
    TOO_SLOW = enum.auto()
    """Its client does not read."""
    NEVER = enum.auto()
    """No node will ever run it."""


_VERDICTS = {
    ErrorCode.CONTEXT_EXCEEDED: Verdict.NEVER,
    ErrorCode.INVALID_REQUEST: Verdict.NEVER,
    # The same tokens make the same logits wherever they are computed.
    ErrorCode.INVALID_LOGITS: Verdict.NEVER,
    ErrorCode.DEADLINE_EXCEEDED: Verdict.TOO_LATE,
    ErrorCode.SLOW_CLIENT: Verdict.TOO_SLOW,
    ErrorCode.WORKER_DIED: Verdict.WORKER_KILLED,
    ErrorCode.NO_SLOT: Verdict.NOT_TAKEN,
    ErrorCode.NO_KV_MEMORY: Verdict.NOT_TAKEN,
    ErrorCode.NOT_READY: Verdict.NOT_TAKEN,
    ErrorCode.UNKNOWN_REPLICA: Verdict.NOT_TAKEN,
    ErrorCode.NODE_STOPPING: Verdict.NOT_TAKEN,
    ErrorCode.WRONG_INCARNATION: Verdict.NOT_TAKEN,
    ErrorCode.INCOMPATIBLE: Verdict.NOT_TAKEN,
    ErrorCode.STALE_EPOCH: Verdict.NOT_TAKEN,
}

_WELL = (ErrorCode.NO_SLOT, ErrorCode.NO_KV_MEMORY, ErrorCode.ENGINE_FAILED)
"""What a replica says that runs other requests."""


def verdict_on(ended: AttemptEnded) -> Verdict:
    """Return what an attempt's end means; an unknown reason counts as a loss."""
    return _VERDICTS.get(ended.refusal.code, Verdict.LOST) if ended.refusal else Verdict.LOST


def pause_after(ended: AttemptEnded) -> float:
    """Return how many seconds to leave the replica alone: longer where it is not there at all."""
    is_well = ended.refusal is not None and ended.refusal.code in _WELL
    return _FULL_PAUSE_SECONDS if is_well else _UNREACHABLE_PAUSE_SECONDS


def is_too_large_for_now(ended: AttemptEnded) -> bool:
    """Whether smaller requests might get in where this one did not."""
    return ended.refusal is not None and ended.refusal.code is ErrorCode.NO_KV_MEMORY


def error_of(ended: AttemptEnded) -> SchedulerError:
    """Return what the client of a request that will never run is told."""
    if ended.refusal is not None and ended.refusal.code is ErrorCode.INVALID_LOGITS:
        return ModelBroken(ended.reason)
    return InvalidRequest(ended.reason, code=ended.code)
