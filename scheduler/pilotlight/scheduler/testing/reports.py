"""What users deploy and nodes say of themselves, in as few words as a test needs.

`fields` are passed on to the value's own class, which knows their types, hence Any.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from pilotlight.scheduler.core.model import Model
from pilotlight.store_node.protocol import (
    Channel,
    ChannelId,
    CheckpointStatus,
    Engine,
    Incarnation,
    LoadStatus,
    ModelId,
    NodeId,
    NodeReport,
    NodeResources,
    Reference,
    ReplicaId,
    ReplicaState,
    ReplicaStatus,
    ReplicaSummary,
    StartOutcome,
    Tier,
)

GIGABYTE = 10**9
ENGINE = "timed"
DISK_BYTES_PER_SECOND = 1.0e9
"""With checkpoints of a gigabyte, one load takes one second."""


def model_of(name: str, **fields: Any) -> Model:
    """Return a model of one gigabyte, one device and one request at a time."""
    model = Model(
        name=ModelId(name),
        reference=Reference(name),
        layout_id=f"layout-{name}",
        size_bytes=GIGABYTE,
        engine=ENGINE,
        concurrency=1,
        keep_alive_seconds=60.0,
    )
    return replace(model, **fields)


def copy_of(
    model: Model | str, *, in_dram: bool = False, is_bound: bool = False, **fields: Any
) -> CheckpointStatus:
    """Return a node's copy of a model's checkpoint, on SSD and perhaps in memory."""
    model = model if isinstance(model, Model) else model_of(model)
    status = CheckpointStatus(
        reference=model.reference,
        path=f"/models/{model.reference}",
        layout_id=model.layout_id,
        content_id=model.content_id,
        size_bytes=model.size_bytes,
        dram_bytes=model.size_bytes if in_dram and not is_bound else 0,
        bound_bytes=model.size_bytes if is_bound else 0,
    )
    return replace(status, **fields)


def disk(name: str, *, bytes_per_second: float = DISK_BYTES_PER_SECOND) -> Channel:
    """Return a disk without latency."""
    return Channel(
        channel_id=ChannelId(name),
        kind="disk",
        bytes_per_second=bytes_per_second,
        latency_seconds=0.0,
        measured=True,
    )


def report_of(
    node: str,
    *,
    devices: int = 1,
    holds: Iterable[CheckpointStatus | str] = (),
    channels: Iterable[Channel] | None = None,
    engines: Iterable[str] = (ENGINE,),
    warm_workers: Mapping[str, int] | None = None,
    **fields: Any,
) -> NodeReport:
    """Return all that a node knows of itself: a disk of its own, a warm worker per device."""
    engines = tuple(engines)
    report = NodeReport(
        node_id=NodeId(node),
        incarnation=Incarnation(f"{node}-1"),
        address=f"{node}:9000",
        epoch=1,
        resources=NodeResources(
            devices=devices,
            device_kind="cpu",
            device_bytes=1 << 40,
            dram_bytes=1 << 40,
            channels=tuple(channels if channels is not None else [disk(f"disk@{node}")]),
        ),
        engines=tuple(Engine(name=name, version="1") for name in engines),
        checkpoints=tuple(copy_of(held) if isinstance(held, str) else held for held in holds),
        warm_workers=warm_workers if warm_workers is not None else dict.fromkeys(engines, devices),
    )
    return replace(report, **fields)


def status_of(
    replica: str, model: str, state: ReplicaState = ReplicaState.READY, **fields: Any
) -> ReplicaStatus:
    """Return what a node says of a replica, on its device 0 while that lives."""
    has_ended = state in (ReplicaState.STOPPED, ReplicaState.FAILED)
    status = ReplicaStatus(
        replica_id=ReplicaId(replica),
        model=ModelId(model),
        reference=Reference(model),
        state=state,
        devices=() if has_ended else (0,),
        outcome=outcome_of() if state is ReplicaState.READY else None,
    )
    return replace(status, **fields)


def summary_of(replica: str, *, running: int = 0, idle_seconds: float = 0.0) -> ReplicaSummary:
    """Return a replica's traffic."""
    return ReplicaSummary(
        replica_id=ReplicaId(replica),
        running=running,
        free_slots=0 if running else 1,
        idle_seconds=idle_seconds,
    )


def outcome_of(**fields: Any) -> StartOutcome:
    """Return how a start from SSD went that took 1.15 s, 1 s of it transfer."""
    outcome = StartOutcome(
        tier=Tier.SSD,
        bytes_read=GIGABYTE,
        queue_seconds=0.0,
        transfer_seconds=1.0,
        worker_seconds=0.1,
        bind_seconds=0.05,
        disk_busy_seconds=1.0,
        worker_busy_seconds=1.1,
    )
    return replace(outcome, **fields)


def load_of(model: str, *, done_bytes: int = 0, total_bytes: int = GIGABYTE) -> LoadStatus:
    """Return a load in flight."""
    return LoadStatus(
        load_id=f"load-{model}",
        reference=Reference(model),
        replica_id=ReplicaId(""),
        done_bytes=done_bytes,
        total_bytes=total_bytes,
    )
