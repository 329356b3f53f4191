"""Why a node does not do what it was asked, in words for programs and for people."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class ErrorCode(enum.StrEnum):
    """What went wrong: in refusals, at the end of a stream, and in a failed replica's status."""

    STALE_EPOCH = "stale_epoch"
    """A command of a leader that another one has followed."""
    WRONG_INCARNATION = "wrong_incarnation"
    """The command is meant for an earlier process of this node."""
    INVALID_REQUEST = "invalid_request"
    NODE_STOPPING = "node_stopping"

    UNKNOWN_CHECKPOINT = "unknown_checkpoint"
    UNKNOWN_FILE = "unknown_file"
    FILE_TOO_LARGE = "file_too_large"
    QUARANTINED = "quarantined"
    """The node's copy of that checkpoint can't be used."""
    LAYOUT_CHANGED = "layout_changed"
    """The node's copy lies otherwise on disk than the command expects."""

    UNKNOWN_ENGINE = "unknown_engine"
    UNKNOWN_REPLICA = "unknown_replica"
    REPLICA_EXISTS = "replica_exists"
    REPLICA_BUSY = "replica_busy"
    """Requests run on a replica that was to be stopped only if idle."""
    ALREADY_READY = "already_ready"
    """A start that is to be cancelled has succeeded."""

    DEVICES_BUSY = "devices_busy"
    TOO_LARGE = "too_large"
    """It would not fit even if everything else were gone."""
    DRAM_FULL = "dram_full"
    """What fills DRAM is pinned or on its way in."""
    PINNED = "pinned"
    LOADING = "loading"

    NOT_READY = "not_ready"
    NO_SLOT = "no_slot"
    NO_KV_MEMORY = "no_kv_memory"
    """The tokens that a request may come to don't fit beside those of the others."""
    INCOMPATIBLE = "incompatible"
    STALE_ATTEMPT = "stale_attempt"
    """The node knows of that attempt, or of a higher one."""
    SUPERSEDED = "superseded"
    """A higher attempt of the running request was admitted."""
    CONTEXT_EXCEEDED = "context_exceeded"
    DEADLINE_EXCEEDED = "deadline_exceeded"
    INVALID_LOGITS = "invalid_logits"
    """The model computed what no token can be chosen from."""
    ENGINE_FAILED = "engine_failed"
    """The engine gave one request up, while others go on."""
    SLOW_CLIENT = "slow_client"
    """More tokens wait for the reader of a stream than may."""

    REPLICA_STOPPED = "replica_stopped"
    WORKER_DIED = "worker_died"
    CHECKSUM_MISMATCH = "checksum_mismatch"
    READ_FAILED = "read_failed"
    FILE_CHANGED = "file_changed"


ENGINE_CODES = ("invalid_option", "unsupported_model", "weights_mismatch")
"""With which an engine says that it can't run what it was given."""

FINAL_CODES: frozenset[str] = frozenset(
    {*ENGINE_CODES, ErrorCode.TOO_LARGE, ErrorCode.UNKNOWN_ENGINE}
)
"""A start that has failed with one of these will fail so again on that node."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """An answer that says no, or the end of a stream that says why."""

    code: ErrorCode
    message: str
