"""What the core knows, as the control plane's messages."""

from __future__ import annotations

from collections.abc import Sequence

from pilotlight.estimators import Residency
from pilotlight.scheduler.core.copies import copy_on, fault_of, residency_of
from pilotlight.scheduler.core.leases import devices_free
from pilotlight.scheduler.core.model import Model
from pilotlight.scheduler.core.state import ClusterState, Node, Replica
from pilotlight.scheduler.protocol import control_plane_pb2 as pb
from pilotlight.scheduler.store import Phases, StartRecord
from pilotlight.store_node.protocol import ReplicaState


def model_message(state: ClusterState, model: Model) -> pb.Model:
    """Return one model with what runs and waits of it."""
    replicas = [r for r in state.replicas.values() if r.model == model.name]
    demand = state.demand.get(model.name)
    residency = {
        node.id: residency_of(state, model, node) for node in state.nodes.values() if node.is_up
    }
    return pb.Model(
        spec=spec_message(model),
        reference=model.reference,
        content_id=model.content_id,
        layout_id=model.layout_id,
        size_bytes=model.size_bytes,
        architecture=model.architecture,
        ssd_nodes=sorted(node for node, flags in residency.items() if flags & Residency.SSD),
        dram_nodes=sorted(node for node, flags in residency.items() if flags & Residency.DRAM),
        replicas_ready=sum(r.state is ReplicaState.READY for r in replicas),
        replicas_starting=sum(r.state is ReplicaState.STARTING for r in replicas),
        waiting=demand.waiting if demand else 0,
        deployed_at=model.deployed_at,
        refusal=_refusal(state, model),
    )


def spec_message(model: Model) -> pb.ModelSpec:
    """Return what was deployed, its defaults filled in."""
    keep_alive = model.keep_alive_seconds
    return pb.ModelSpec(
        name=model.name,
        path=model.path,
        devices=model.devices,
        engine=model.engine,
        engine_options=dict(model.engine_options),
        dtype=model.dtype,
        min_replicas=model.min_replicas,
        max_replicas=model.max_replicas,
        concurrency=model.concurrency,
        keep_alive="load" if keep_alive is None else f"{keep_alive:g}s",
        priority=model.priority,
        queue_limit=model.queue_limit,
        context_tokens=model.context_tokens,
    )


def node_message(state: ClusterState, node: Node, *, now: float) -> pb.Node:
    """Return one node."""
    disks = [c.bytes_per_second for c in node.channels.values() if c.kind == "disk" and c.measured]
    return pb.Node(
        node_id=node.id,
        incarnation=node.incarnation,
        address=node.address,
        state="up" if node.is_up else "down",
        silent_seconds=max(now - node.heard_at, 0.0),
        devices=node.resources.devices,
        devices_free=max(devices_free(state, node.id), 0) if node.is_up else 0,
        device_kind=node.resources.device_kind,
        dram_bytes=node.resources.dram_bytes,
        dram_used_bytes=sum(copy.dram_bytes for copy in node.checkpoints.values())
        if node.is_up
        else 0,
        checkpoints=sum(not copy.quarantine for copy in node.checkpoints.values()),
        warm_workers=sum(node.warm_workers.values()) if node.is_up else 0,
        disk_bytes_per_second=disks[0] if disks else 0.0,
        version=node.package_version,
        quarantined=[
            f"{copy.reference}: {copy.quarantine}"
            for copy in node.checkpoints.values()
            if copy.quarantine
        ],
    )


def replica_message(state: ClusterState, replica: Replica, *, now: float) -> pb.Replica:
    """Return one replica."""
    is_reserved = replica.state is ReplicaState.STARTING and replica.sent_at is None
    idle_since = replica.idle_since
    return pb.Replica(
        replica_id=replica.id,
        model=replica.model,
        node_id=replica.node,
        state="reserved" if is_reserved else replica.state,
        devices=replica.devices,
        running=replica.running,
        concurrency=replica.concurrency,
        age_seconds=max(now - replica.created_at, 0.0),
        idle_seconds=max(now - idle_since, 0.0) if idle_since is not None else 0.0,
        load_progress=_load_progress(state, replica),
        error=replica.error,
    )


def start_message(start: StartRecord) -> pb.Start:
    """Return one finished start."""
    message = pb.Start(
        replica_id=start.replica_id,
        model=start.model,
        node_id=start.node_id,
        tier=start.tier,
        size_bytes=start.size_bytes,
        bytes_read=start.bytes_read,
        ready_seconds=start.ready_seconds,
        first_token_seconds=start.first_token_seconds,
        checksum=start.checksum,
        bottleneck=start.bottleneck,
        started_at=start.started_at,
        error=start.error,
        decision_id=start.decision_id,
    )
    if start.estimated is not None:
        message.estimated.CopyFrom(_phases(start.estimated))
    if start.measured is not None:
        message.measured.CopyFrom(_phases(start.measured))
    return message


def _phases(phases: Phases) -> pb.StartPhases:
    return pb.StartPhases(
        queue_seconds=phases.queue_seconds,
        transfer_seconds=phases.transfer_seconds,
        worker_seconds=phases.worker_seconds,
        bind_seconds=phases.bind_seconds,
        handover_seconds=phases.handover_seconds,
        prefill_seconds=phases.prefill_seconds,
    )


def _load_progress(state: ClusterState, replica: Replica) -> float:
    node = state.nodes.get(replica.node)
    if replica.state is not ReplicaState.STARTING or node is None:
        return float(replica.was_ready)
    loads = [load for load in node.loads if load.replica_id == replica.id and load.total_bytes]
    return loads[0].done_bytes / loads[0].total_bytes if loads else 0.0


def _refusal(state: ClusterState, model: Model) -> str:
    replicas = state.replicas.values()
    if any(r.model == model.name and r.state is ReplicaState.READY for r in replicas):
        return ""
    if not any(copy_on(state, model, node) for node in state.nodes.values() if node.is_up):
        return "; ".join(_faults(state, model)) or "no node that is up holds it"
    failures: Sequence[str] = [
        f"{key.rpartition('@')[2]}: {back_off.reason}"
        for key, back_off in state.back_offs.items()
        if key.rpartition("@")[0] == model.name
    ]
    return "; ".join(failures)


def _faults(state: ClusterState, model: Model) -> list[str]:
    copies = [(node, node.checkpoints.get(model.reference)) for node in state.nodes.values()]
    faults = [(node, fault_of(state, model, copy)) for node, copy in copies if copy]
    return [f"{node.id}: {fault}" for node, fault in faults if fault]
