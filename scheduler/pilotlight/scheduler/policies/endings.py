"""Which replicas may end: unwanted starts, expired ones, and those that others may replace."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable

import numpy as np

from pilotlight.scheduler.core.shortage import replicas_to_spare
from pilotlight.scheduler.core.snapshot import Ints, ReplicaCode, Snapshot


class Endings:
    """The replicas of one snapshot, less those that the plan being made ends.

    Whatever ends, no model falls below its minimum, and none loses a replica that
    its own requests wait for. Nothing is worked out before it is asked for: most
    plans look at few nodes and few models.
    """

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot
        self._leaving: set[int] = set()
        self._ended: Counter[int] = Counter()
        """How many of each model."""
        self._idle: Ints | None = None
        """What is idle and can end, row by row; None before it was asked for."""
        self._idle_on: dict[int, list[int]] = {}
        """By node, the longest idle first."""

    def end(self, replica: int) -> None:
        """Note that the plan ends a replica."""
        self._leaving.add(replica)
        self._ended[self._model(replica)] += 1

    def unwanted_starts(self) -> list[int]:
        """Return the starts that nobody waits for any more and no minimum needs, the last first."""
        snapshot = self._snapshot
        starts = np.flatnonzero(snapshot.replica_state == ReplicaCode.STARTING)
        # A deleted model's starts are stopped without a policy.
        starts = self._of_models_with_spare(starts[snapshot.replica_model[starts] >= 0])
        return self._as_many_as_spare(self._which_can_end(starts)[::-1].tolist())

    def expired(self) -> list[int]:
        """Return what was idle longer than its keep-alive, the longest idle first.

        Of each model those go first that were idle longest: one that may stay longer
        keeps the others.
        """
        snapshot = self._snapshot
        expired = np.flatnonzero(snapshot.replica_expires_at <= snapshot.now)
        expired = self._of_models_with_spare(expired)
        found: list[int] = []
        for model in np.unique(snapshot.replica_model[expired]).tolist():
            idle = self._longest_idle_first(snapshot.replica_model, model)
            found += self._as_many_as_spare(idle)
        is_over = [r for r in found if snapshot.replica_expires_at[r] <= snapshot.now]
        return sorted(is_over, key=lambda r: (snapshot.replica_idle_since[r], r))

    def reclaimable(self, node: int, *, for_model: int) -> list[int]:
        """Return a node's idle replicas that another model may replace, longest idle first."""
        if node not in self._idle_on:
            self._idle_on[node] = self._longest_idle_first(self._snapshot.replica_node, node)
        here = [r for r in self._idle_on[node] if self._model(r) != for_model]
        return self._as_many_as_spare(here)

    def most_devices(self) -> Ints:
        """Return [N]: what idle replicas hold, of which not all need be reclaimable."""
        snapshot = self._snapshot
        idle = self._all_idle()
        devices = snapshot.replica_devices[idle].astype(np.float64)
        nodes, n_nodes = snapshot.replica_node[idle], len(snapshot.node_ids)
        return np.bincount(nodes, devices, minlength=n_nodes).astype(np.int64)

    def _all_idle(self) -> Ints:
        """Return what is idle and can end, row by row."""
        if self._idle is None:
            since = self._snapshot.replica_idle_since
            self._idle = self._which_can_end(np.flatnonzero(~np.isnan(since)))
        return self._idle

    def _as_many_as_spare(self, replicas: Iterable[int]) -> list[int]:
        """Return the first of each model, as many as it can spare."""
        taken: dict[int, int] = {}
        found: list[int] = []
        for replica in replicas:
            model = self._model(replica)
            n_taken = taken.get(model, 0)
            if replica in self._leaving or self._spare(model) - n_taken < 1:
                continue
            taken[model] = n_taken + 1
            found.append(replica)
        return found

    def _spare(self, model: int) -> float:
        """Return how many replicas of a model may end; all of a deleted one, whose row is -1."""
        if model < 0:
            return math.inf
        snapshot = self._snapshot
        spare = replicas_to_spare(
            live=int(snapshot.model_live_replicas[model]),
            waiting=int(snapshot.waiting[model]),
            least=int(snapshot.model_min_replicas[model]),
        )
        return spare - self._ended[model]

    def _of_models_with_spare(self, replicas: Ints) -> Ints:
        """Return those whose models could spare one before the plan ended any."""
        snapshot = self._snapshot
        models = snapshot.replica_model[replicas]
        has_spare = models < 0
        known = models[~has_spare]
        has_spare[~has_spare] = (snapshot.waiting[known] == 0) & (
            snapshot.model_live_replicas[known] > snapshot.model_min_replicas[known]
        )
        return replicas[has_spare]

    def _longest_idle_first(self, column: Ints, value: int) -> list[int]:
        """Return the replicas with a value in a column that are idle and can end."""
        idle = self._all_idle()
        idle = idle[column[idle] == value]
        since = self._snapshot.replica_idle_since[idle]
        ordered: list[int] = idle[np.argsort(since, kind="stable")].tolist()
        return ordered

    def _which_can_end(self, replicas: Ints) -> Ints:
        """Return those that do not end already, and whose node can be told.

        A node that was never seen since a restart may run as READY what looks like a start.
        """
        snapshot = self._snapshot
        replicas = replicas[~snapshot.replica_is_stopping[replicas]]
        replicas = replicas[snapshot.replica_node[replicas] >= 0]
        return replicas[snapshot.node_is_up[snapshot.replica_node[replicas]]]

    def _model(self, replica: int) -> int:
        return int(self._snapshot.replica_model[replica])
