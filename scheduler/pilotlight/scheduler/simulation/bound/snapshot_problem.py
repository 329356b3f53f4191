"""One snapshot as the bound sees it: who waits, where starts may go, and what each takes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pilotlight.estimators import Estimator, Phase, Quantile
from pilotlight.scheduler.core.snapshot import ReplicaCode, Snapshot
from pilotlight.scheduler.simulation.bound.run_problem import Bools, Floats, Ints

UNPLACED_SECONDS = 300.0
"""What a request costs that a plan gives no place: the deadline that requests have by default."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotProblem:
    """M models for which requests wait, N nodes, V replicas that may be stopped.

    Seconds count from the snapshot's `now` and are what the evaluator says where
    nothing else is added to it.
    """

    model_rows: Ints
    """[M] of the snapshot's models."""
    n_waiting: Ints
    """[M] requests without a place that no start under way will take."""
    concurrency: Ints
    """[M] requests that one start takes."""
    n_starts: Ints
    """[M] that there may be at most."""
    devices: Ints
    """[M] for each start."""
    can_start: Bools
    """[M, N]."""
    is_in_memory: Bools
    """[M, N]: the transfer needs no disk, and begins when the devices are there."""
    transfer_seconds: Floats
    """[M, N] from the devices where the copy is in memory, else from now, the disk's backlog
    included; infinite where there is no copy."""
    disk_seconds: Floats
    """[M, N] for which its disk is busy with it; 0 where it is in memory or on its way there."""
    channel: Ints
    """[M, N] of its disk."""
    worker_seconds: Floats
    """[M, N] from the devices on."""
    tail_seconds: Floats
    """[M, N] bind and prefill."""
    devices_free: Ints
    """[N]."""
    victim_rows: Ints
    """[V] of the snapshot's replicas."""
    victim_node: Ints
    """[V]."""
    victim_devices: Ints
    """[V]."""
    victim_seconds: Floats
    """[V] until its devices are free, once it is stopped."""
    unplaced_seconds: float

    @property
    def n_requests(self) -> int:
        """Return how many requests the plan is for."""
        return int(self.n_waiting.sum())

    def devices_within_reach(self) -> Ints:
        """Return [N]: what is free, or is once everything is stopped that may be."""
        freed = np.bincount(self.victim_node, self.victim_devices, len(self.devices_free))
        return np.maximum(self.devices_free, 0) + freed.astype(np.int64)

    def devices_at(self) -> Floats:
        """Return [M, N]: when a start has its devices at the soonest; infinite where never."""
        at = np.full((len(self.devices), len(self.devices_free)), np.inf)
        within_reach = np.maximum(self.devices_free, 0).copy()
        at[self.devices[:, None] <= within_reach] = 0.0
        for row in np.argsort(self.victim_seconds, kind="stable").tolist():
            node = int(self.victim_node[row])
            within_reach[node] += self.victim_devices[row]
            fits = (self.devices <= within_reach[node]) & np.isinf(at[:, node])
            at[fits, node] = self.victim_seconds[row]
        at[~self.can_start] = np.inf
        return at

    def soonest_seconds(self) -> Floats:
        """Return [M, N]: when a start alone would give its first token; infinite where never."""
        at = self.devices_at()
        from_disk = np.maximum(self.transfer_seconds, at + self.worker_seconds)
        from_memory = at + np.maximum(self.transfer_seconds, self.worker_seconds)
        soonest: Floats = np.where(self.is_in_memory, from_memory, from_disk) + self.tail_seconds
        return soonest


def snapshot_problem(
    snapshot: Snapshot,
    estimator: Estimator,
    *,
    unplaced_seconds: float = UNPLACED_SECONDS,
    may_preempt: bool = False,
) -> SnapshotProblem:
    """Return what there is to plan for on a snapshot.

    Plans may start models where `Snapshot.can_start` allows it, up to their most
    replicas, fetch them, and stop what is idle; with `may_preempt`, whatever runs.
    """
    to_place = requests_to_place(snapshot)
    models = np.flatnonzero(to_place)
    nodes = np.arange(len(snapshot.node_ids))
    times = estimator.start_times(snapshot, models, nodes)
    seconds, disk = times.seconds[Quantile.P50], times.disk_seconds[Quantile.P50].copy()
    is_in_memory = disk == 0.0
    transfer = seconds[Phase.TRANSFER].copy()
    channel = snapshot.copy_channel[models]
    _add_queues(snapshot, estimator, models, transfer, disk)
    victims = _victims(snapshot, may_preempt=may_preempt)
    timeline = estimator.timeline(snapshot)
    free = np.array([timeline.devices_free(node) for node in nodes.tolist()], np.int64)
    can_start = [snapshot.can_start(model) for model in models.tolist()]
    return SnapshotProblem(
        model_rows=models,
        n_waiting=to_place[models],
        concurrency=request_slots(snapshot)[models],
        n_starts=starts_allowed(snapshot)[models],
        devices=snapshot.model_devices[models],
        can_start=np.array(can_start, np.bool_).reshape(len(models), len(nodes))
        & np.isfinite(transfer),
        is_in_memory=is_in_memory,
        transfer_seconds=transfer,
        disk_seconds=disk,
        channel=channel,
        worker_seconds=seconds[Phase.WORKER],
        tail_seconds=seconds[Phase.BIND] + seconds[Phase.PREFILL],
        devices_free=free,
        victim_rows=victims,
        victim_node=snapshot.replica_node[victims],
        victim_devices=snapshot.replica_devices[victims],
        victim_seconds=np.array([timeline.fork().add_stop(row) for row in victims.tolist()]),
        unplaced_seconds=unplaced_seconds,
    )


def requests_to_place(snapshot: Snapshot) -> Ints:
    """Return [M]: the waiting requests of each model that no start under way will take."""
    starting = _stays(snapshot) & (snapshot.replica_state == ReplicaCode.STARTING)
    taken = _by_model(snapshot, starting) * request_slots(snapshot)
    return np.maximum(snapshot.waiting - taken, 0)


def request_slots(snapshot: Snapshot) -> Ints:
    """Return [M]: how many requests a replica takes, as far as that is known."""
    known = np.zeros(len(snapshot.model_ids), np.int64)
    ready = (snapshot.replica_state == ReplicaCode.READY) & (snapshot.replica_model >= 0)
    np.maximum.at(known, snapshot.replica_model[ready], snapshot.replica_concurrency[ready])
    return np.where(known > 0, known, np.maximum(snapshot.model_concurrency, 1))


def starts_allowed(snapshot: Snapshot) -> Ints:
    """Return [M]: how many more replicas each model may have."""
    live = _by_model(snapshot, _stays(snapshot))
    allowed: Ints = np.maximum(snapshot.model_max_replicas - live, 0)
    return allowed


def can_be_stopped(snapshot: Snapshot) -> Bools:
    """Return [R]: the replicas that do not end already, and whose node can be told."""
    can_be: Bools = (snapshot.replica_node >= 0) & ~snapshot.replica_is_stopping
    can_be[can_be] = snapshot.node_is_up[snapshot.replica_node[can_be]]
    return can_be


def _stays(snapshot: Snapshot) -> Bools:
    """Return [R]: the replicas that take requests or will."""
    stays: Bools = snapshot.replica_state != ReplicaCode.DRAINING
    return stays & ~snapshot.replica_is_stopping


def _by_model(snapshot: Snapshot, replicas: Bools) -> Ints:
    models = snapshot.replica_model[replicas & (snapshot.replica_model >= 0)]
    counts: Ints = np.bincount(models, minlength=len(snapshot.model_ids))
    return counts


def _victims(snapshot: Snapshot, *, may_preempt: bool) -> Ints:
    may_end = can_be_stopped(snapshot)
    if not may_preempt:
        may_end &= ~np.isnan(snapshot.replica_idle_since)
    return np.flatnonzero(may_end)


def _add_queues(
    snapshot: Snapshot, estimator: Estimator, models: Ints, transfer: Floats, disk: Floats
) -> None:
    """Add to transfers from disk what their disk has to do first; what is on its way adds none."""
    under_way = set(zip(snapshot.load_model.tolist(), snapshot.load_node.tolist(), strict=True))
    timeline = estimator.timeline(snapshot)
    backlog: dict[int, float] = {}
    for row, node in np.argwhere((disk > 0.0) & np.isfinite(transfer)).tolist():
        model = int(models[row])
        channel = int(snapshot.copy_channel[model, node])
        is_under_way = (model, node) in under_way
        if is_under_way:
            disk[row, node] = 0.0
            transfer[row, node] = timeline.fork().add_fetch(model, node)
            continue
        if channel not in backlog:
            alone = float(transfer[row, node])
            backlog[channel] = timeline.fork().add_fetch(model, node) - alone
        transfer[row, node] += backlog[channel]
