"""Translates what the core wants written into what the SQL state holds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from pilotlight.scheduler.core.actions import (
    AnyChange,
    DecisionEnded,
    DecisionMade,
    NodeChanged,
    ReplicaChanged,
    StartFinished,
)
from pilotlight.scheduler.core.plan import EstimatedStart
from pilotlight.scheduler.core.state import Node
from pilotlight.scheduler.store import (
    Change,
    DecisionRecord,
    FinishDecision,
    NodeRecord,
    Phases,
    PutDecision,
    PutNode,
    PutReplica,
    PutStart,
    RemoveReplica,
    ReplicaRecord,
    StartRecord,
)
from pilotlight.store_node.protocol import (
    NodeId,
    ReplicaState,
    StartOutcome,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """When something is written."""

    wall: float
    """Seconds since 1970."""
    offset: int
    """Number of the event, in the recording, that it follows from."""


def change_record(change: AnyChange, *, nodes: Mapping[NodeId, Node], moment: Moment) -> Change:
    """Return the record of one change."""
    return _TRANSLATIONS[type(change)](change, nodes, moment)


def start_record(change: StartFinished, *, wall: float) -> StartRecord:
    """Return a finished start as it is kept."""
    outcome = change.outcome
    return StartRecord(
        replica_id=change.replica,
        decision_id=change.decision,
        model=change.model,
        node_id=change.node,
        tier=outcome.tier if outcome else "",
        size_bytes=change.size_bytes,
        bytes_read=outcome.bytes_read if outcome else 0,
        started_at=wall - change.age_seconds,
        ready_seconds=change.ready_seconds,
        estimated=_phases(change.estimated) if change.estimated else None,
        measured=_phases(outcome) if outcome else None,
        checksum=(outcome.checksum or "") if outcome else "",
        bottleneck=outcome.bottleneck if outcome else "",
        error=change.error,
    )


def _decision(change: DecisionMade, nodes: Mapping[NodeId, Node], moment: Moment) -> Change:
    plan = {"steps": change.steps, "rejected": change.rejected}
    return PutDecision(
        DecisionRecord(
            decision_id=change.decision,
            policy=change.policy,
            made_at=moment.wall,
            recording_offset=moment.offset,
            plan=msgspec.json.encode(plan).decode(),
            reasons=tuple(step.reason for step in change.steps if step.reason),
        )
    )


def _decision_end(change: DecisionEnded, nodes: Mapping[NodeId, Node], moment: Moment) -> Change:
    return FinishDecision(
        decision_id=change.decision, outcome=change.outcome, finished_at=moment.wall
    )


def _replica(change: ReplicaChanged, nodes: Mapping[NodeId, Node], moment: Moment) -> Change:
    if change.state in (ReplicaState.STOPPED, ReplicaState.FAILED):
        return RemoveReplica(change.replica)
    return PutReplica(
        ReplicaRecord(
            replica_id=change.replica,
            model=change.model,
            node_id=change.node,
            state=change.state,
            devices=change.devices,
            decision_id=change.decision,
            changed_at=moment.wall,
            error=change.error,
        )
    )


def _node(change: NodeChanged, nodes: Mapping[NodeId, Node], moment: Moment) -> Change:
    node = nodes[change.node]
    return PutNode(
        NodeRecord(
            node_id=change.node,
            incarnation=change.incarnation,
            address=change.address,
            is_up=change.is_up,
            changed_at=moment.wall,
            devices=node.resources.devices,
            device_kind=node.resources.device_kind,
            dram_bytes=node.resources.dram_bytes,
            version=node.package_version,
        )
    )


def _start(change: StartFinished, nodes: Mapping[NodeId, Node], moment: Moment) -> Change:
    return PutStart(start_record(change, wall=moment.wall))


_Translation = Callable[[Any, Mapping[NodeId, Node], Moment], Change]
_TRANSLATIONS: Mapping[type[AnyChange], _Translation] = {
    DecisionMade: _decision,
    DecisionEnded: _decision_end,
    ReplicaChanged: _replica,
    NodeChanged: _node,
    StartFinished: _start,
}


def _phases(of: EstimatedStart | StartOutcome) -> Phases:
    return Phases(
        queue_seconds=of.queue_seconds,
        transfer_seconds=of.transfer_seconds,
        worker_seconds=of.worker_seconds,
        bind_seconds=of.bind_seconds,
        handover_seconds=of.handover_seconds if isinstance(of, StartOutcome) else None,
        prefill_seconds=of.prefill_seconds,
    )
