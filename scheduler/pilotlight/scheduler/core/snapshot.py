"""What a policy sees: an immutable, columnar picture of the cluster."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pilotlight.estimators import Residency
from pilotlight.scheduler.core.plan import Plan, Read, Subject
from pilotlight.store_node.protocol import ModelId, NodeId, ReplicaId, Tier

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Flags = npt.NDArray[np.uint8]
Bools = npt.NDArray[np.bool_]


class ReplicaCode(enum.IntEnum):
    """`ReplicaState` as a column."""

    STARTING = 0
    READY = 1
    DRAINING = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """M models, N nodes, E engines, C channels, R live replicas, L loads, B back-offs, F faults.

    All arrays are read-only; a row of one table is an index into its `…_ids`.
    Times are monotonic seconds, as `now` is.
    """

    now: float
    version: int
    seed: int
    """For policies that draw: equal snapshots make equal plans."""
    previous_plan: Plan | None

    model_ids: tuple[ModelId, ...]
    model_size_bytes: Ints
    model_devices: Ints
    model_engine: Ints
    model_min_replicas: Ints
    model_max_replicas: Ints
    model_concurrency: Ints
    """0 = what the engine allows."""
    model_priority: Ints
    model_keep_alive_seconds: Floats
    """NaN = as long as its load takes."""
    model_version: Ints
    model_live_replicas: Ints
    """[M] replicas that take requests or will."""
    model_lacking_replicas: Ints
    """[M] replicas that its waiting requests fill, or its minimum wants, beyond those that are
    starting, within its limits (`shortage.replicas_lacking`)."""

    waiting: Ints
    """[M] requests without a place."""
    oldest_arrival: Floats
    """[M]; infinite where none waits."""

    node_ids: tuple[NodeId, ...]
    node_is_up: Bools
    node_devices: Ints
    node_devices_free: Ints
    node_dram_bytes: Ints
    node_dram_free_bytes: Ints
    node_link: Ints
    node_version: Ints

    engine_ids: tuple[str, ...]
    warm_workers: Ints
    """[E, N]."""
    node_has_engine: Bools
    """[E, N]."""

    channel_ids: tuple[str, ...]
    channel_bytes_per_second: Floats
    channel_latency_seconds: Floats

    residency: Flags
    """[M, N] of `pilotlight.estimators.Residency`."""
    copy_channel: Ints
    """[M, N] row of the channel that the copy is read over; -1 = none."""

    replica_ids: tuple[ReplicaId, ...]
    replica_model: Ints
    """-1 where its model is deleted."""
    replica_node: Ints
    replica_state: Ints
    """Of `ReplicaCode`."""
    replica_devices: Ints
    replica_running: Ints
    replica_concurrency: Ints
    replica_idle_since: Floats
    """NaN where it is not idle."""
    replica_expires_at: Floats
    """When it was idle for its keep-alive; NaN where it is not idle, minus infinity where its
    model is deleted."""
    replica_load_seconds: Floats
    """What its start took; NaN before it is READY."""
    replica_is_stopping: Bools
    replica_version: Ints

    load_model: Ints
    """Of loads in flight, and of those that starts under way will begin."""
    load_node: Ints
    load_channel: Ints
    load_left_bytes: Ints

    back_off_model: Ints
    back_off_node: Ints
    back_off_until: Floats
    back_off_failures: Ints
    back_off_is_final: Bools
    """It would fail so again."""
    back_off_reasons: tuple[str, ...]

    fault_model: Ints
    """Of copies that can't be used."""
    fault_node: Ints
    fault_reasons: tuple[str, ...]

    def model_row(self, model: ModelId) -> int:
        """Return a model's row; ValueError where it is not deployed."""
        return self.model_ids.index(model)

    def node_row(self, node: NodeId) -> int:
        """Return a node's row; ValueError where it was never seen."""
        return self.node_ids.index(node)

    def tier(self, model: int, node: int) -> Tier | None:
        """Return the fastest tier of a node that holds a whole copy; None where none does."""
        flags = int(self.residency[model, node])
        if flags & Residency.DRAM:
            return Tier.DRAM
        return Tier.SSD if flags & Residency.SSD else None

    def can_start(self, model: int) -> Bools:
        """Return [N]: the nodes that are up, hold a copy and the engine, and are not backed off.

        Says nothing of free devices.
        """
        able: Bools = self.node_is_up & (self.residency[model] != 0)
        able = able & self.node_has_engine[self.model_engine[model]]
        blocked = (self.back_off_model == model) & (self.back_off_until > self.now)
        able[self.back_off_node[blocked]] = False
        return able

    def read_node(self, node: int) -> Read:
        """Return the fact that a node is as this snapshot shows it."""
        return Read(Subject.NODE, self.node_ids[node], int(self.node_version[node]))

    def read_model(self, model: int) -> Read:
        """Return the fact that a model is as this snapshot shows it."""
        return Read(Subject.MODEL, self.model_ids[model], int(self.model_version[model]))

    def read_replica(self, replica: int) -> Read:
        """Return the fact that a replica is as this snapshot shows it."""
        return Read(Subject.REPLICA, self.replica_ids[replica], int(self.replica_version[replica]))


def read_only(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return the array, no longer writable."""
    array.setflags(write=False)
    return array
