"""Makes the command that carries out a step."""

from __future__ import annotations

from pilotlight.scheduler.core.actions import Command
from pilotlight.scheduler.core.copies import copy_on
from pilotlight.scheduler.core.model import Model
from pilotlight.scheduler.core.plan import CancelStart, Evict, Fetch, Start, Stop
from pilotlight.scheduler.core.state import Decision, Node, PlannedStep
from pilotlight.scheduler.core.turn import Turn
from pilotlight.store_node.protocol import (
    CancelStartRequest,
    CheckpointStatus,
    CommandHeader,
    EvictCheckpointRequest,
    FetchCheckpointRequest,
    NodeId,
    ReplicaId,
    ReplicaSpec,
    StartReplicaRequest,
    StopReplicaRequest,
)

ENGINE_LIMIT = 1 << 16
"""What "as many requests at once as the engine allows" is on the wire."""


def command_for(
    turn: Turn, decision: Decision, step: PlannedStep
) -> tuple[Node | None, Command | None]:
    """Return where a step goes, and its command; None where that has gone."""
    node = turn.state.nodes.get(_node_of(turn, step))
    if node is None or not node.is_up:
        return None, None
    header = CommandHeader(
        epoch=turn.state.epoch,
        incarnation=node.incarnation,
        idempotency_key=f"{turn.state.epoch}/{decision.id}/{step.step.id}",
        deadline_seconds=turn.settings.command_deadline_seconds,
        decision_id=decision.id,
        step_id=step.step.id,
    )
    return node, _command(turn, step, node, header)


def _node_of(turn: Turn, step: PlannedStep) -> NodeId:
    if isinstance(step.step, Start | Fetch | Evict):
        return step.step.node
    replica = turn.state.replicas.get(step.replica) if step.replica else None
    return replica.node if replica else NodeId("")


def _command(turn: Turn, step: PlannedStep, node: Node, header: CommandHeader) -> Command | None:
    planned, replica = step.step, step.replica or ReplicaId("")
    if isinstance(planned, Stop):
        return StopReplicaRequest(
            header=header,
            replica_id=replica,
            if_idle=planned.if_idle,
            grace_seconds=planned.grace_seconds,
        )
    if isinstance(planned, CancelStart):
        return CancelStartRequest(header=header, replica_id=replica)
    if not isinstance(planned, Start | Fetch | Evict):
        return None
    model = turn.state.models.get(planned.model)
    copy = copy_on(turn.state, model, node) if model else None
    if model is None or copy is None:
        return None
    if isinstance(planned, Fetch):
        return FetchCheckpointRequest(
            header=header, reference=copy.reference, priority=model.priority
        )
    if isinstance(planned, Evict):
        return EvictCheckpointRequest(header=header, reference=copy.reference)
    return StartReplicaRequest(
        header=header,
        spec=_spec(turn, model, copy, replica),
        priority=model.priority,
        evict=planned.evict,
    )


def _spec(turn: Turn, model: Model, copy: CheckpointStatus, replica: ReplicaId) -> ReplicaSpec:
    return ReplicaSpec(
        replica_id=replica,
        model=model.name,
        reference=copy.reference,
        layout_id=copy.layout_id,
        devices=model.devices,
        engine=model.engine,
        engine_options=model.engine_options,
        dtype=model.dtype,
        concurrency=model.concurrency or ENGINE_LIMIT,
        context_tokens=model.context_tokens,
        deployment=turn.index.deployment_of(model.name),
    )
