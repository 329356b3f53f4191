"""The values that nodes, controllers and gateways exchange.

Each class mirrors the message of the same name in `store_node.proto`, field by
field, where the units are stated.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NewType

NodeId = NewType("NodeId", str)
Incarnation = NewType("Incarnation", str)
ModelId = NewType("ModelId", str)
ReplicaId = NewType("ReplicaId", str)
RequestId = NewType("RequestId", str)
ChannelId = NewType("ChannelId", str)
Reference = NewType("Reference", str)

PROTOCOL_VERSION = 1
"""The newest version of the node protocol that this package speaks."""


class Tier(enum.StrEnum):
    """Where a checkpoint's bytes lie."""

    DEVICE = "device"
    DRAM = "dram"
    SSD = "ssd"
    PEER = "peer"
    REMOTE = "remote"


class ReplicaState(enum.StrEnum):
    """A replica's life: STARTING, READY, DRAINING, STOPPED; or FAILED."""

    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"
    STOPPED = "stopped"
    FAILED = "failed"


class FinishReason(enum.StrEnum):
    """Why a request emits no more tokens."""

    STOP = "stop"
    LENGTH = "length"
    CANCELLED = "cancelled"


class ChecksumState(enum.StrEnum):
    """What is known of a load's bytes."""

    LEARNED = "learned"
    VERIFIED = "verified"


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandHeader:
    """What every command carries."""

    epoch: int
    incarnation: Incarnation
    idempotency_key: str
    deadline_seconds: float = 0.0
    decision_id: str = ""
    step_id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandResponse:
    """A node's answer to a command that it carries out."""

    epoch: int
    incarnation: Incarnation


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaSpec:
    """What a replica is to be."""

    replica_id: ReplicaId
    model: ModelId
    reference: Reference
    layout_id: str = ""
    devices: int = 1
    engine: str = "transformers"
    engine_options: Mapping[str, str] = field(default_factory=dict[str, str])
    dtype: str = "auto"
    concurrency: int = 1
    context_tokens: int = 0
    deployment: str = ""

    @property
    def adapter(self) -> Reference:
        """What the engine option of that name says: small weights that go with these."""
        return Reference(self.engine_options.get("adapter", ""))


@dataclass(frozen=True, slots=True, kw_only=True)
class StartReplicaRequest:
    header: CommandHeader
    spec: ReplicaSpec
    priority: int = 0
    evict: tuple[Reference, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class StopReplicaRequest:
    header: CommandHeader
    replica_id: ReplicaId
    if_idle: bool = False
    grace_seconds: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class CancelStartRequest:
    header: CommandHeader
    replica_id: ReplicaId


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchCheckpointRequest:
    header: CommandHeader
    reference: Reference
    priority: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class EvictCheckpointRequest:
    header: CommandHeader
    reference: Reference


@dataclass(frozen=True, slots=True, kw_only=True)
class PinCheckpointRequest:
    header: CommandHeader
    reference: Reference
    pinned: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How the next token is chosen; randomness is keyed on (seed, position)."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int = 0
    max_tokens: int = 16
    stop_token_ids: tuple[int, ...] = ()
    logprobs: int | None = None
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict[int, float])


@dataclass(frozen=True, slots=True, kw_only=True)
class CompatibilityKey:
    """Two replicas with equal keys compute the same tokens for one request."""

    content: str
    engine: str
    engine_version: str
    dtype: str
    parallelism: int


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerateRequest:
    """One attempt of a request at one replica."""

    request_id: RequestId
    attempt: int
    epoch: int
    incarnation: Incarnation
    idempotency_key: str
    deadline_seconds: float
    replica_id: ReplicaId
    compatibility: CompatibilityKey | None = None
    prompt_ids: tuple[int, ...]
    emitted_ids: tuple[int, ...] = ()
    sampling: Sampling


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenLogprobs:
    """One token's log probability, and those of the most likely ones."""

    logprob: float
    top_ids: tuple[int, ...] = ()
    top_logprobs: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenBatch:
    """Consecutive tokens of one attempt; `seq` numbers the first one from 0."""

    request_id: RequestId
    attempt: int
    seq: int
    token_ids: tuple[int, ...]
    logprobs: tuple[TokenLogprobs, ...] = ()
    finish_reason: FinishReason | None = None
    prefill_seconds: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class CancelRequestRequest:
    request_id: RequestId
    attempt: int
    epoch: int
    incarnation: Incarnation
    idempotency_key: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadExecutionFileRequest:
    reference: Reference
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Channel:
    """Something that carries bytes and can be busy."""

    channel_id: ChannelId
    kind: str
    bytes_per_second: float
    latency_seconds: float
    measured: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeResources:
    devices: int
    device_kind: str
    device_bytes: int
    dram_bytes: int
    channels: tuple[Channel, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    name: str
    version: str


def content_name(content_id: str, layout_id: str, bytes_digest: str) -> str:
    """Return what bytes are, as exactly as it is known."""
    return content_id or f"{layout_id}:{bytes_digest}"


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointStatus:
    """One copy of a checkpoint on a node's SSD, and what of it lies in DRAM."""

    reference: Reference
    path: str
    layout_id: str
    size_bytes: int
    content_id: str = ""
    bytes_digest: str = ""
    tensors: int = 0
    ssd_channel: ChannelId = ChannelId("")
    dram_bytes: int = 0
    bound_bytes: int = 0
    pinned: bool = False
    quarantine: str = ""
    architecture: str = ""
    context_tokens: int = 0
    dtype: str = ""
    execution_files: tuple[str, ...] = ()

    @property
    def content(self) -> str:
        """Return what the compatibility key of a replica made from these bytes says of them."""
        return content_name(self.content_id, self.layout_id, self.bytes_digest)


@dataclass(frozen=True, slots=True, kw_only=True)
class StartOutcome:
    """How a start went; phases are exclusive segments of its critical path."""

    tier: Tier
    bytes_read: int
    queue_seconds: float
    transfer_seconds: float
    worker_seconds: float
    bind_seconds: float
    prefill_seconds: float | None = None
    disk_busy_seconds: float = 0.0
    worker_busy_seconds: float = 0.0
    checksum: ChecksumState | None = None
    bottleneck: str = ""
    copied_bytes: int = 0
    handover_seconds: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaStatus:
    replica_id: ReplicaId
    model: ModelId
    reference: Reference
    state: ReplicaState
    devices: tuple[int, ...] = ()
    concurrency: int = 1
    compatibility: CompatibilityKey | None = None
    outcome: StartOutcome | None = None
    error_code: str = ""
    error: str = ""
    context_tokens: int = 0
    teardown_seconds: float = 0.0
    deployment: str = ""
    log_tail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningRequest:
    request_id: RequestId
    attempt: int
    prompt_tokens: int
    emitted_tokens: int
    tokens_per_second: float
    deadline_seconds: float
    movable: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaSummary:
    """One replica's traffic, once a second."""

    replica_id: ReplicaId
    running: int
    free_slots: int
    kv_tokens_free: int | None = None
    idle_seconds: float = 0.0
    requests: tuple[RunningRequest, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadStatus:
    load_id: str
    reference: Reference
    replica_id: ReplicaId
    done_bytes: int
    total_bytes: int
    priority: int = 0
    cancellable: bool = True
    channel_id: ChannelId = ChannelId("")


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolAccounts:
    """The accounts of a chunk pool: free + cached + bound = total."""

    free_bytes: int
    cached_bytes: int
    bound_bytes: int
    total_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeReport:
    """Everything that a node knows about itself."""

    node_id: NodeId
    incarnation: Incarnation
    address: str
    epoch: int
    resources: NodeResources
    engines: tuple[Engine, ...] = ()
    checkpoints: tuple[CheckpointStatus, ...] = ()
    replicas: tuple[ReplicaStatus, ...] = ()
    loads: tuple[LoadStatus, ...] = ()
    warm_workers: Mapping[str, int] = field(default_factory=dict[str, int])
    accounts: PoolAccounts | None = None
    summaries: tuple[ReplicaSummary, ...] = ()
    version: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeUpdate:
    """What has changed on a node since its last message."""

    checkpoints: tuple[CheckpointStatus, ...] = ()
    removed_checkpoints: tuple[Reference, ...] = ()
    replicas: tuple[ReplicaStatus, ...] = ()
    loads: tuple[LoadStatus, ...] = ()
    summaries: tuple[ReplicaSummary, ...] = ()
    has_summaries: bool = False
    warm_workers: Mapping[str, int] = field(default_factory=dict[str, int])
    accounts: PoolAccounts | None = None
    channels: tuple[Channel, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Hello:
    node_id: NodeId
    incarnation: Incarnation
    epoch: int
    protocol_version: int = PROTOCOL_VERSION


@dataclass(frozen=True, slots=True, kw_only=True)
class Welcome:
    epoch: int
    heartbeat_seconds: float
    protocol_version: int = PROTOCOL_VERSION
