"""Which replicas may end: unwanted starts, expired ones, and those that others may replace."""

from __future__ import annotations

import math

import numpy as np

from pilotlight.scheduler.core.snapshot import Bools, Ints, ReplicaCode, Snapshot
from pilotlight.scheduler.policies.scaling import counted


class Endings:
    """The replicas of one snapshot, less those that the plan being made ends.

    Whatever ends, no model falls below its minimum, and none loses a replica that
    its own requests wait for.
    """

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot
        self._leaving: set[int] = set()
        self._spare = _spare_replicas(snapshot)
        self._idle_on = _idle_by_node(snapshot)

    def end(self, replica: int) -> None:
        """Note that the plan ends a replica."""
        self._leaving.add(replica)
        self._spare[self._model(replica)] -= 1

    def unwanted_starts(self) -> list[int]:
        """Return the starts that nobody waits for any more and no minimum needs, the last first."""
        starts = _can_end(self._snapshot) & (self._snapshot.replica_state == ReplicaCode.STARTING)
        # A deleted model's starts are stopped without a policy.
        starts &= self._snapshot.replica_model >= 0
        return self._as_many_as_spare(np.flatnonzero(starts)[::-1].tolist())

    def expired(self) -> tuple[list[int], float | None]:
        """Return what was idle longer than its keep-alive, and when the next one expires."""
        idle = [replica for replicas in self._idle_on.values() for replica in replicas]
        candidates = self._as_many_as_spare(self._longest_idle_first(idle))
        expiries = [(replica, self._expiry(replica)) for replica in candidates]
        now = self._snapshot.now
        later = [expiry for _, expiry in expiries if expiry > now]
        expired = [replica for replica, expiry in expiries if expiry <= now]
        return expired, min(later, default=None)

    def reclaimable(self, node: int, *, for_model: int) -> list[int]:
        """Return a node's idle replicas that another model may replace, longest idle first."""
        here = [r for r in self._idle_on.get(node, ()) if self._model(r) != for_model]
        return self._as_many_as_spare(here)

    def _as_many_as_spare(self, replicas: list[int]) -> list[int]:
        """Return the first of each model, as many as it can spare."""
        left = dict(self._spare)
        found: list[int] = []
        for replica in replicas:
            model = self._model(replica)
            if replica in self._leaving or left[model] < 1:
                continue
            left[model] -= 1
            found.append(replica)
        return found

    def _longest_idle_first(self, replicas: list[int]) -> list[int]:
        return sorted(replicas, key=lambda replica: self._snapshot.replica_idle_since[replica])

    def _expiry(self, replica: int) -> float:
        snapshot, model = self._snapshot, self._model(replica)
        if model < 0:
            return snapshot.now
        keep = float(snapshot.model_keep_alive_seconds[model])
        if np.isnan(keep):
            keep = float(snapshot.replica_load_seconds[replica])
        return float(snapshot.replica_idle_since[replica]) + (0.0 if np.isnan(keep) else keep)

    def _model(self, replica: int) -> int:
        return int(self._snapshot.replica_model[replica])


def _spare_replicas(snapshot: Snapshot) -> dict[int, float]:
    """Return by model how many replicas may end; all of a deleted one, whose row is -1."""
    of_models = snapshot.replica_model[counted(snapshot)]
    n_models = len(snapshot.model_ids)
    live = np.bincount(of_models[of_models >= 0], minlength=n_models)
    spare: Ints = np.where(snapshot.waiting > 0, 0, live - snapshot.model_min_replicas)
    return {-1: math.inf} | {model: float(spare[model]) for model in range(n_models)}


def _idle_by_node(snapshot: Snapshot) -> dict[int, list[int]]:
    idle = np.flatnonzero(~np.isnan(snapshot.replica_idle_since) & _can_end(snapshot))
    found: dict[int, list[int]] = {}
    for replica in idle[np.argsort(snapshot.replica_idle_since[idle], kind="stable")].tolist():
        found.setdefault(int(snapshot.replica_node[replica]), []).append(replica)
    return found


def _can_end(snapshot: Snapshot) -> Bools:
    """Return [R]: the replicas that do not end already, and whose node can be told.

    A node that was never seen since a restart may run as READY what looks like a start.
    """
    is_there = snapshot.replica_node >= 0
    is_there[is_there] = snapshot.node_is_up[snapshot.replica_node[is_there]]
    can_end: Bools = is_there & ~snapshot.replica_is_stopping
    return can_end
