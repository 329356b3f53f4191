"""The snapshot's rows of replicas, in the order in which the state came to know them."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from pilotlight.scheduler.core.expiry import expires_at, load_seconds
from pilotlight.scheduler.core.index import StateIndex
from pilotlight.scheduler.core.snapshot import ReplicaCode
from pilotlight.scheduler.core.state import ClusterState, Replica
from pilotlight.scheduler.core.tables import Columns, RowTable
from pilotlight.store_node.protocol import ModelId, NodeId, ReplicaId, ReplicaState

_CODES = {
    ReplicaState.STARTING: ReplicaCode.STARTING,
    ReplicaState.READY: ReplicaCode.READY,
    ReplicaState.DRAINING: ReplicaCode.DRAINING,
}

_TYPES: dict[str, type[np.generic]] = {
    "replica_model": np.int64,
    "replica_node": np.int64,
    "replica_state": np.int64,
    "replica_devices": np.int64,
    "replica_running": np.int64,
    "replica_concurrency": np.int64,
    "replica_version": np.int64,
    "replica_idle_since": np.float64,
    "replica_load_seconds": np.float64,
    "replica_expires_at": np.float64,
    "replica_is_stopping": np.bool_,
}


class ReplicaRows:
    """One row for each replica that lives, for given rows of models and nodes."""

    def __init__(
        self,
        state: ClusterState,
        index: StateIndex,
        *,
        model_rows: Mapping[ModelId, int],
        node_rows: Mapping[NodeId, int],
    ) -> None:
        self._state = state
        self._index = index
        self._model_rows = model_rows
        self._node_rows = node_rows
        self._table = RowTable(_TYPES)
        self._place_of: dict[ReplicaId, int] = {}
        self._places: list[int] = []
        """By row, ascending."""
        self._ids: list[ReplicaId] = []
        self._published_ids: tuple[ReplicaId, ...] | None = None
        self.refresh(state.replicas)

    def refresh(self, touched: Iterable[ReplicaId]) -> None:
        """Take over what has changed of these replicas, which may have come or gone."""
        new: list[Replica] = []
        for replica_id in touched:
            replica = self._state.replicas.get(replica_id)
            if replica is not None and not replica.is_live:
                replica = None
            known = self._place_of.get(replica_id)
            if known is not None:
                if replica is not None and self._index.place_of(replica_id) == known:
                    self._table.write(bisect_left(self._places, known), *self._row(replica))
                    continue
                self._remove(replica_id, known)
            if replica is not None:
                new.append(replica)
        for replica in sorted(new, key=lambda each: self._index.place_of(each.id)):
            self._append(replica)

    def publish(self) -> tuple[tuple[ReplicaId, ...], Columns]:
        """Return the ids and the columns."""
        if self._published_ids is None:
            self._published_ids = tuple(self._ids)
        return self._published_ids, self._table.publish()

    def _append(self, replica: Replica) -> None:
        place = self._place_of[replica.id] = self._index.place_of(replica.id)
        self._places.append(place)
        self._ids.append(replica.id)
        self._published_ids = None
        self._table.append(*self._row(replica))

    def _remove(self, replica_id: ReplicaId, place: int) -> None:
        row = bisect_left(self._places, place)
        del self._places[row], self._ids[row], self._place_of[replica_id]
        self._published_ids = None
        self._table.remove(row)

    def _row(self, replica: Replica) -> tuple[tuple[Any, ...], ...]:
        """Return the values of a row, type by type as `_TYPES` has them, hence Any."""
        whole = (
            self._model_rows.get(replica.model, -1),
            self._node_rows.get(replica.node, -1),
            _CODES[replica.state],
            replica.devices,
            replica.running,
            replica.concurrency,
            replica.version,
        )
        idle_since = np.nan if replica.idle_since is None else replica.idle_since
        fractions = (idle_since, load_seconds(replica), expires_at(self._state, replica))
        return whole, fractions, (replica.is_leaving,)
