"""Keeps the columns of the snapshot current, row by row, as the state changes.

Theory of operation. Whoever changes the state says which node or replica it
touched. Building a snapshot refreshes only those rows; a table that no touch
reached is shared with the snapshot before. Models and nodes keep their rows for
life; a change of who exists rebuilds everything.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from pilotlight.estimators import Residency
from pilotlight.scheduler.core.copies import copy_on, fault_of, residency_of_copy
from pilotlight.scheduler.core.leases import devices_free
from pilotlight.scheduler.core.model import Model
from pilotlight.scheduler.core.snapshot import ReplicaCode, Snapshot, read_only
from pilotlight.scheduler.core.state import BackOff, ClusterState, Node, Replica
from pilotlight.store_node.protocol import CheckpointStatus, ModelId, NodeId, ReplicaState

_CODES = {
    ReplicaState.STARTING: ReplicaCode.STARTING,
    ReplicaState.READY: ReplicaCode.READY,
    ReplicaState.DRAINING: ReplicaCode.DRAINING,
}

Columns = dict[str, npt.NDArray[Any]]
_Fields = dict[str, Any]


class SnapshotBuilder:
    """Turns a state into snapshots; one per core."""

    def __init__(self, state: ClusterState) -> None:
        self._state = state
        self._is_shape_stale = True
        self._touched_nodes: set[NodeId] = set()
        self._are_replicas_stale = True
        self._model_rows: dict[ModelId, int] = {}
        self._node_rows: dict[NodeId, int] = {}
        self._channel_rows: dict[str, int] = {}
        self._engine_rows: dict[str, int] = {}
        self._models: Columns = {}
        self._nodes: Columns = {}
        self._replicas: Columns = {}
        self._channels: Columns = {}
        self._replica_ids: tuple[Any, ...] = ()
        self._faults: dict[tuple[int, int], str] = {}
        """By the rows of model and node."""

    def touch_shape(self) -> None:
        """A model, a node, an engine or a channel came, went or changed."""
        self._is_shape_stale = True

    def touch_node(self, node: NodeId) -> None:
        """A node's leases, residency, workers or loads changed."""
        self._touched_nodes.add(node)

    def touch_replicas(self) -> None:
        """A replica came, went or changed."""
        self._are_replicas_stale = True

    def build(self, now: float) -> Snapshot:
        """Return the state as it is."""
        state = self._state
        if self._is_shape_stale:
            self._rebuild_shape()
        elif self._touched_nodes:
            self._refresh_nodes(self._touched_nodes)
        if self._are_replicas_stale or self._touched_nodes:
            self._rebuild_replicas()
        self._touched_nodes.clear()
        return Snapshot(
            now=now,
            version=state.version,
            seed=state.version,
            previous_plan=state.previous_plan,
            model_ids=tuple(self._model_rows),
            node_ids=tuple(self._node_rows),
            engine_ids=tuple(self._engine_rows),
            channel_ids=tuple(self._channel_rows),
            replica_ids=self._replica_ids,
            **self._columns(),
        )

    def _columns(self) -> _Fields:
        return (
            self._models
            | self._nodes
            | self._channels
            | self._replicas
            | self._demand_columns()
            | self._load_columns()
            | self._back_off_columns()
            | self._fault_columns()
        )

    def _rebuild_shape(self) -> None:
        state = self._state
        self._model_rows = {model: row for row, model in enumerate(state.models)}
        self._node_rows = {node: row for row, node in enumerate(state.nodes)}
        nodes = state.nodes.values()
        engines = dict.fromkeys(
            [engine.name for node in nodes for engine in node.engines]
            + [model.engine for model in state.models.values()]
        )
        self._engine_rows = {engine: row for row, engine in enumerate(engines)}
        channels = {name: channel for node in nodes for name, channel in node.channels.items()}
        self._channel_rows = {name: row for row, name in enumerate(channels)}
        self._channels = {
            "channel_bytes_per_second": _floats(c.bytes_per_second for c in channels.values()),
            "channel_latency_seconds": _floats(c.latency_seconds for c in channels.values()),
        }
        self._rebuild_models()
        self._faults = {}
        self._nodes = _empty_node_columns(len(state.models), len(state.nodes), len(engines))
        self._refresh_nodes(state.nodes)
        self._are_replicas_stale = True
        self._is_shape_stale = False

    def _rebuild_models(self) -> None:
        models = list(self._state.models.values())
        keep_alive = [model.keep_alive_seconds for model in models]
        self._models = {
            "model_size_bytes": _ints(model.size_bytes for model in models),
            "model_devices": _ints(model.devices for model in models),
            "model_engine": _ints(self._engine_rows[model.engine] for model in models),
            "model_min_replicas": _ints(model.min_replicas for model in models),
            "model_max_replicas": _ints(model.max_replicas for model in models),
            "model_concurrency": _ints(model.concurrency for model in models),
            "model_priority": _ints(model.priority for model in models),
            "model_keep_alive_seconds": _floats(
                np.nan if seconds is None else seconds for seconds in keep_alive
            ),
            "model_version": _ints(self._state.model_versions[model.name] for model in models),
        }

    def _refresh_nodes(self, touched: Iterable[NodeId]) -> None:
        columns = {name: column.copy() for name, column in self._nodes.items()}
        for node_id in touched:
            self._refresh_node(columns, self._state.nodes[node_id], self._node_rows[node_id])
        self._nodes = {name: read_only(column) for name, column in columns.items()}

    def _refresh_node(self, columns: Columns, node: Node, row: int) -> None:
        link = node.channel_of("host_link")
        used = node.accounts.cached_bytes if node.accounts else 0
        columns["node_is_up"][row] = node.is_up
        columns["node_devices"][row] = node.resources.devices
        columns["node_devices_free"][row] = devices_free(self._state, node.id) if node.is_up else 0
        columns["node_dram_bytes"][row] = node.resources.dram_bytes
        columns["node_dram_free_bytes"][row] = max(node.resources.dram_bytes - used, 0)
        columns["node_link"][row] = self._channel_rows[link] if link else -1
        columns["node_version"][row] = node.version
        columns["warm_workers"][:, row] = 0
        columns["node_has_engine"][:, row] = False
        for name, count in node.warm_workers.items():
            if name in self._engine_rows:
                columns["warm_workers"][self._engine_rows[name], row] = count
        for engine in node.engines:
            columns["node_has_engine"][self._engine_rows[engine.name], row] = True
        for name, model_row in self._model_rows.items():
            model = self._state.models[name]
            copy = copy_on(self._state, model, node)
            columns["residency"][model_row, row] = residency_of_copy(copy, node) if copy else 0
            columns["copy_channel"][model_row, row] = self._channel_row(node, copy)
            self._note_fault(model, node, (model_row, row))

    def _channel_row(self, node: Node, copy: CheckpointStatus | None) -> int:
        channel = node.disk_of(copy) if copy else None
        return self._channel_rows[channel] if channel else -1

    def _note_fault(self, model: Model, node: Node, rows: tuple[int, int]) -> None:
        copy = node.checkpoints.get(model.reference)
        if fault := copy and fault_of(self._state, model, copy):
            self._faults[rows] = fault
        else:
            self._faults.pop(rows, None)

    def _rebuild_replicas(self) -> None:
        live = [replica for replica in self._state.replicas.values() if replica.is_live]
        self._replica_ids = tuple(replica.id for replica in live)

        def ints(value: Callable[[Replica], int]) -> npt.NDArray[Any]:
            return _ints(map(value, live))

        self._replicas = {
            "replica_model": ints(lambda r: self._model_rows.get(r.model, -1)),
            "replica_node": ints(lambda r: self._node_rows.get(r.node, -1)),
            "replica_state": ints(lambda r: _CODES[r.state]),
            "replica_devices": ints(lambda r: r.devices),
            "replica_running": ints(lambda r: r.running),
            "replica_concurrency": ints(lambda r: r.concurrency),
            "replica_idle_since": _floats(
                np.nan if r.idle_since is None else r.idle_since for r in live
            ),
            "replica_load_seconds": _floats(map(_load_seconds, live)),
            "replica_is_stopping": read_only(np.array([r.is_leaving for r in live], np.bool_)),
            "replica_version": ints(lambda r: r.version),
        }
        self._are_replicas_stale = False

    def _demand_columns(self) -> Columns:
        waiting = np.zeros(len(self._model_rows), np.int64)
        oldest = np.full(len(self._model_rows), np.inf)
        for model, demand in self._state.demand.items():
            row = self._model_rows.get(model)
            if row is not None:
                waiting[row], oldest[row] = demand.waiting, demand.oldest_arrival
        return {"waiting": read_only(waiting), "oldest_arrival": read_only(oldest)}

    def _load_columns(self) -> Columns:
        models = [(model, self._model_rows[name]) for name, model in self._state.models.items()]
        by_reference: dict[str, int] = {model.reference: row for model, row in models}
        by_content = {model.content_id: row for model, row in models if model.content_id}
        loads: list[tuple[int, int, int, int]] = []
        for name, row in self._node_rows.items():
            node = self._state.nodes[name]
            for load in node.loads if node.is_up else ():
                copy = node.checkpoints.get(load.reference)
                elsewhere = by_content.get(copy.content_id, -1) if copy else -1
                model = by_reference.get(load.reference, elsewhere)
                left = max(load.total_bytes - load.done_bytes, 0)
                channel = self._channel_rows.get(load.channel_id, self._channel_row(node, copy))
                loads.append((model, row, channel, left))
        loads += self._loads_to_come({(model, row) for model, row, _, _ in loads})
        return {
            "load_model": _ints(model for model, _, _, _ in loads),
            "load_node": _ints(node for _, node, _, _ in loads),
            "load_channel": _ints(channel for _, _, channel, _ in loads),
            "load_left_bytes": _ints(left for _, _, _, left in loads),
        }

    def _loads_to_come(self, known: set[tuple[int, int]]) -> list[tuple[int, int, int, int]]:
        """Return the loads of starts whose nodes have not reported one yet."""
        found: dict[tuple[int, int], tuple[int, int, int, int]] = {}
        for replica in self._state.replicas.values():
            if replica.state is not ReplicaState.STARTING or replica.is_leaving:
                continue
            row, node = self._model_rows.get(replica.model), self._node_rows.get(replica.node)
            if row is None or node is None or (row, node) in known:
                continue
            is_in_dram = bool(self._nodes["residency"][row, node] & Residency.DRAM)
            if self._nodes["node_is_up"][node] and not is_in_dram:
                channel = int(self._nodes["copy_channel"][row, node])
                size = self._state.models[replica.model].size_bytes
                found[row, node] = (row, node, channel, size)
        return list(found.values())

    def _back_off_columns(self) -> _Fields:
        rows: list[tuple[int, int, BackOff]] = []
        for back_off in self._state.back_offs.values():
            model_row = self._model_rows.get(back_off.model)
            node_row = self._node_rows.get(back_off.node)
            if model_row is not None and node_row is not None:
                rows.append((model_row, node_row, back_off))
        return {
            "back_off_model": _ints(row[0] for row in rows),
            "back_off_node": _ints(row[1] for row in rows),
            "back_off_until": _floats(row[2].until for row in rows),
            "back_off_failures": _ints(row[2].failures for row in rows),
            "back_off_is_final": read_only(np.array([row[2].is_final for row in rows], np.bool_)),
            "back_off_reasons": tuple(row[2].reason for row in rows),
        }

    def _fault_columns(self) -> _Fields:
        return {
            "fault_model": _ints(model for model, _ in self._faults),
            "fault_node": _ints(node for _, node in self._faults),
            "fault_reasons": tuple(self._faults.values()),
        }


def _empty_node_columns(n_models: int, n_nodes: int, n_engines: int) -> Columns:
    whole = ("devices", "devices_free", "dram_bytes", "dram_free_bytes", "link")
    columns: Columns = {f"node_{name}": np.zeros(n_nodes, np.int64) for name in whole}
    return columns | {
        "node_version": np.zeros(n_nodes, np.int64),
        "node_is_up": np.zeros(n_nodes, np.bool_),
        "warm_workers": np.zeros((n_engines, n_nodes), np.int64),
        "node_has_engine": np.zeros((n_engines, n_nodes), np.bool_),
        "residency": np.full((n_models, n_nodes), Residency(0), np.uint8),
        "copy_channel": np.full((n_models, n_nodes), -1, np.int64),
    }


def _load_seconds(replica: Replica) -> float:
    outcome = replica.outcome
    if outcome is None:
        return float("nan")
    return (
        outcome.queue_seconds
        + outcome.transfer_seconds
        + outcome.worker_seconds
        + outcome.bind_seconds
    )


def _ints(values: Iterable[int]) -> npt.NDArray[Any]:
    return read_only(np.fromiter(values, np.int64))


def _floats(values: Iterable[float]) -> npt.NDArray[Any]:
    return read_only(np.fromiter(values, np.float64))
