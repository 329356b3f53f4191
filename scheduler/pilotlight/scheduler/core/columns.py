"""Keeps the columns of the snapshot current, row by row, as the state changes.

Theory of operation. Whoever changes the state says what it touched: a node, what
a node holds of a model, a replica, a model's demand. Building a snapshot
refreshes only those rows; a table that no touch reached is shared with the
snapshot before. Models and nodes keep their rows for life; a change of who
exists rebuilds everything.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from pilotlight.scheduler.core.index import StateIndex
from pilotlight.scheduler.core.node_columns import NodeColumns, Rows
from pilotlight.scheduler.core.replica_rows import ReplicaRows
from pilotlight.scheduler.core.shortage import replicas_lacking
from pilotlight.scheduler.core.snapshot import Snapshot, read_only
from pilotlight.scheduler.core.state import BackOff, ClusterState
from pilotlight.scheduler.core.tables import Columns, Table
from pilotlight.store_node.protocol import ModelId, NodeId, ReplicaId

_Fields = dict[str, Any]

T = TypeVar("T")


class SnapshotBuilder:
    """Turns a state into snapshots; one per core."""

    def __init__(self, state: ClusterState, index: StateIndex | None = None) -> None:
        """`index` is kept current by somebody else; without one, this is for one snapshot."""
        self._state = state
        self._index = index or StateIndex(state)
        self._is_shape_stale = True
        self._are_back_offs_stale = True
        self._touched_nodes: dict[NodeId, None] = {}
        self._touched_copies: dict[NodeId, dict[ModelId, None]] = {}
        self._touched_replicas: dict[ReplicaId, None] = {}
        self._touched_models: dict[ModelId, None] = {}
        # Ids keep their identity for as long as they are equal: columns can be cached by it.
        self._model_ids: tuple[ModelId, ...] = ()
        self._node_ids: tuple[NodeId, ...] = ()
        self._engine_ids: tuple[str, ...] = ()
        self._channel_ids: tuple[str, ...] = ()
        self._rows = Rows(models={}, nodes={}, engines={}, channels={})
        self._fixed: _Fields = {}
        """Columns of models and channels, until one comes, goes or changes."""
        self._back_offs: _Fields = {}

    def touch_shape(self) -> None:
        """A model, a node, an engine or a channel came, went or changed."""
        self._is_shape_stale = True

    def touch_node(self, node: NodeId) -> None:
        """A node's leases, workers, loads or liveness changed."""
        self._touched_nodes[node] = None

    def touch_copies(self, node: NodeId, models: Iterable[ModelId]) -> None:
        """What a node holds of these models changed."""
        self._touched_nodes[node] = None
        self._touched_copies.setdefault(node, {}).update(dict.fromkeys(models))

    def touch_replica(self, replica: ReplicaId) -> None:
        """A replica came, went or changed."""
        self._touched_replicas[replica] = None

    def touch_model(self, model: ModelId) -> None:
        """A model's demand changed, or what its replicas are."""
        self._touched_models[model] = None

    def touch_back_offs(self) -> None:
        """A back-off came, went or changed."""
        self._are_back_offs_stale = True

    def build(self, now: float) -> Snapshot:
        """Return the state as it is."""
        state = self._state
        if self._is_shape_stale:
            self._rebuild()
        else:
            self._refresh()
        self._forget_touches()
        replica_ids, replicas = self._replicas.publish()
        columns: _Fields = {
            **self._fixed,
            **self._models.publish(),
            **self._nodes.publish(),
            **replicas,
            **self._back_off_columns(),
        }
        return Snapshot(
            now=now,
            version=state.version,
            seed=state.version,
            previous_plan=state.previous_plan,
            model_ids=self._model_ids,
            node_ids=self._node_ids,
            engine_ids=self._engine_ids,
            channel_ids=self._channel_ids,
            replica_ids=replica_ids,
            **columns,
        )

    def _forget_touches(self) -> None:
        self._is_shape_stale = False
        self._touched_nodes.clear()
        self._touched_copies.clear()
        self._touched_replicas.clear()
        self._touched_models.clear()

    def _refresh(self) -> None:
        for node, models in self._touched_copies.items():
            self._nodes.refresh_copies(node, models)
        for node in self._touched_nodes:
            self._nodes.refresh(node)
        self._replicas.refresh(self._touched_replicas)
        self._refresh_models(self._touched_models)

    def _rebuild(self) -> None:
        state = self._state
        nodes = state.nodes.values()
        engines = dict.fromkeys(
            [engine.name for node in nodes for engine in node.engines]
            + [model.engine for model in state.models.values()]
        )
        channels = {name: channel for node in nodes for name, channel in node.channels.items()}
        self._model_ids = _kept(self._model_ids, tuple(state.models))
        self._node_ids = _kept(self._node_ids, tuple(state.nodes))
        self._engine_ids = _kept(self._engine_ids, tuple(engines))
        self._channel_ids = _kept(self._channel_ids, tuple(channels))
        rows = self._rows = Rows(
            models=_numbered(self._model_ids),
            nodes=_numbered(self._node_ids),
            engines=_numbered(self._engine_ids),
            channels=_numbered(self._channel_ids),
        )
        self._fixed = self._model_columns() | {
            "channel_bytes_per_second": _floats(c.bytes_per_second for c in channels.values()),
            "channel_latency_seconds": _floats(c.latency_seconds for c in channels.values()),
        }
        self._models = Table(_empty_model_columns(len(rows.models)))
        self._refresh_models(rows.models)
        self._nodes = NodeColumns(state, self._index, rows)
        self._replicas = ReplicaRows(
            state, self._index, model_rows=rows.models, node_rows=rows.nodes
        )
        self._are_back_offs_stale = True

    def _model_columns(self) -> Columns:
        models = list(self._state.models.values())
        keep_alive = [model.keep_alive_seconds for model in models]
        return {
            "model_size_bytes": _ints(model.size_bytes for model in models),
            "model_devices": _ints(model.devices for model in models),
            "model_engine": _ints(self._rows.engines[model.engine] for model in models),
            "model_min_replicas": _ints(model.min_replicas for model in models),
            "model_max_replicas": _ints(model.max_replicas for model in models),
            "model_concurrency": _ints(model.concurrency for model in models),
            "model_priority": _ints(model.priority for model in models),
            "model_keep_alive_seconds": _floats(
                np.nan if seconds is None else seconds for seconds in keep_alive
            ),
            "model_version": _ints(self._state.model_versions[model.name] for model in models),
        }

    def _refresh_models(self, models: Iterable[ModelId]) -> None:
        table = self._models
        for name in models:
            row = self._rows.models.get(name)
            if row is None:
                continue
            demand = self._state.demand.get(name)
            waiting = demand.waiting if demand else 0
            has = self._index.count_of(name)
            lacking = replicas_lacking(self._state.models[name], has, waiting=waiting)
            table.writable("waiting")[row] = waiting
            table.writable("oldest_arrival")[row] = demand.oldest_arrival if demand else np.inf
            table.writable("model_live_replicas")[row] = has.live
            table.writable("model_lacking_replicas")[row] = lacking

    def _back_off_columns(self) -> _Fields:
        if not self._are_back_offs_stale:
            return self._back_offs
        rows: list[tuple[int, int, BackOff]] = []
        for back_off in self._state.back_offs.values():
            model_row = self._rows.models.get(back_off.model)
            node_row = self._rows.nodes.get(back_off.node)
            if model_row is not None and node_row is not None:
                rows.append((model_row, node_row, back_off))
        self._back_offs = {
            "back_off_model": _ints(row[0] for row in rows),
            "back_off_node": _ints(row[1] for row in rows),
            "back_off_until": _floats(row[2].until for row in rows),
            "back_off_failures": _ints(row[2].failures for row in rows),
            "back_off_is_final": read_only(np.array([row[2].is_final for row in rows], np.bool_)),
            "back_off_reasons": tuple(row[2].reason for row in rows),
        }
        self._are_back_offs_stale = False
        return self._back_offs


def _kept(before: tuple[T, ...], now: tuple[T, ...]) -> tuple[T, ...]:
    return before if before == now else now


def _numbered(ids: Iterable[T]) -> dict[T, int]:
    return {id_: row for row, id_ in enumerate(ids)}


def _empty_model_columns(n_models: int) -> Columns:
    return {
        "waiting": np.zeros(n_models, np.int64),
        "oldest_arrival": np.full(n_models, np.inf),
        "model_live_replicas": np.zeros(n_models, np.int64),
        "model_lacking_replicas": np.zeros(n_models, np.int64),
    }


def _ints(values: Iterable[int]) -> npt.NDArray[Any]:
    return read_only(np.fromiter(values, np.int64))


def _floats(values: Iterable[float]) -> npt.NDArray[Any]:
    return read_only(np.fromiter(values, np.float64))
