"""The snapshot's columns of nodes, and of what each holds of each model."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from pilotlight.estimators import Residency
from pilotlight.scheduler.core.copies import copy_on, fault_of, residency_of_copy
from pilotlight.scheduler.core.index import StateIndex
from pilotlight.scheduler.core.leases import devices_free
from pilotlight.scheduler.core.load_rows import Load, LoadRows
from pilotlight.scheduler.core.model import Model
from pilotlight.scheduler.core.snapshot import read_only
from pilotlight.scheduler.core.state import ClusterState, Node
from pilotlight.scheduler.core.tables import Columns, Table
from pilotlight.store_node.protocol import CheckpointStatus, ModelId, NodeId, ReplicaState

_DRAM = int(Residency.DRAM)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """Which row each model, node, engine and channel has, while none comes, goes or changes."""

    models: dict[ModelId, int]
    nodes: dict[NodeId, int]
    engines: dict[str, int]
    channels: dict[str, int]


class NodeColumns:
    """Columns of one shape of the cluster."""

    def __init__(self, state: ClusterState, index: StateIndex, rows: Rows) -> None:
        self._state = state
        self._index = index
        self._rows = rows
        self._table = Table(_empty(len(rows.models), len(rows.nodes), len(rows.engines)))
        self._loads = LoadRows()
        self._faults: dict[tuple[int, int], str] = {}
        """By the rows of node and model."""
        self._fault_columns: dict[str, Any] | None = None
        for node in state.nodes.values():
            self.refresh_copies(node.id, self._models_on(node))
            self.refresh(node.id)

    def refresh(self, node_id: NodeId) -> None:
        """Take over a node's leases, workers, liveness and loads."""
        state, table = self._state, self._table
        node, row = state.nodes[node_id], self._rows.nodes[node_id]
        link = node.channel_of("host_link")
        used = node.accounts.cached_bytes if node.accounts else 0
        free = devices_free(state, node_id, self._index.replicas_on(node_id)) if node.is_up else 0
        table.writable("node_is_up")[row] = node.is_up
        table.writable("node_devices")[row] = node.resources.devices
        table.writable("node_devices_free")[row] = free
        table.writable("node_dram_bytes")[row] = node.resources.dram_bytes
        table.writable("node_dram_free_bytes")[row] = max(node.resources.dram_bytes - used, 0)
        table.writable("node_link")[row] = self._rows.channels[link] if link else -1
        table.writable("node_version")[row] = node.version
        table.writable("warm_workers")[:, row] = [
            node.warm_workers.get(engine, 0) for engine in self._rows.engines
        ]
        names = {engine.name for engine in node.engines}
        table.writable("node_has_engine")[:, row] = [
            engine in names for engine in self._rows.engines
        ]
        self._refresh_loads(node, row)

    def refresh_copies(self, node_id: NodeId, models: Iterable[ModelId]) -> None:
        """Take over where a node holds these models; its loads follow with `refresh`."""
        node, row = self._state.nodes[node_id], self._rows.nodes[node_id]
        for name in models:
            model_row = self._rows.models.get(name)
            if model_row is None:
                continue
            model = self._state.models[name]
            copy = copy_on(self._state, model, node)
            flags = int(residency_of_copy(copy, node)) if copy else 0
            self._table.writable("residency")[model_row, row] = flags
            self._put_channel(model_row, row, self._channel_row(node, copy))
            self._note_fault(model, node, (row, model_row))

    def publish(self) -> dict[str, Any]:
        """Return the columns of nodes, copies, loads and faults."""
        if self._fault_columns is None:
            faults = sorted(self._faults.items())
            self._fault_columns = {
                "fault_model": read_only(np.array([key[1] for key, _ in faults], np.int64)),
                "fault_node": read_only(np.array([key[0] for key, _ in faults], np.int64)),
                "fault_reasons": tuple(reason for _, reason in faults),
            }
        return self._table.publish() | self._loads.publish() | self._fault_columns

    def _models_on(self, node: Node) -> list[ModelId]:
        found: dict[ModelId, None] = {}
        for copy in node.checkpoints.values():
            found |= dict.fromkeys(self._index.models_of(copy))
        return list(found)

    def _put_channel(self, model: int, node: int, channel: int) -> None:
        """Write only what differs: estimators compile what they need of this column."""
        if self._table.read("copy_channel")[model, node] != channel:
            self._table.writable("copy_channel")[model, node] = channel

    def _channel_row(self, node: Node, copy: CheckpointStatus | None) -> int:
        channel = node.disk_of(copy) if copy else None
        return self._rows.channels[channel] if channel else -1

    def _note_fault(self, model: Model, node: Node, rows: tuple[int, int]) -> None:
        copy = node.checkpoints.get(model.reference)
        fault = fault_of(self._state, model, copy) if copy else ""
        if fault == self._faults.get(rows, ""):
            return
        self._fault_columns = None
        if fault:
            self._faults[rows] = fault
        else:
            del self._faults[rows]

    def _refresh_loads(self, node: Node, row: int) -> None:
        if not node.is_up:
            self._loads.put(row, [], [])
            return
        reported: list[Load] = []
        for load in node.loads:
            copy = node.checkpoints.get(load.reference)
            left = max(load.total_bytes - load.done_bytes, 0)
            channel = self._rows.channels.get(load.channel_id, self._channel_row(node, copy))
            reported.append((self._row_loaded(load.reference, copy), row, channel, left))
        self._loads.put(row, reported, self._loads_to_come(node, row, reported))

    def _row_loaded(self, reference: Any, copy: CheckpointStatus | None) -> int:
        """Return the row of the model whose checkpoint a load brings; -1 where none is deployed."""
        models = self._index.models_at(reference)
        if not models and copy is not None and copy.content_id:
            models = self._index.models_of(copy)
        return max((self._rows.models[name] for name in models), default=-1)

    def _loads_to_come(self, node: Node, row: int, reported: list[Load]) -> list[tuple[int, Load]]:
        """Return the loads of starts that the node has not reported one for yet."""
        found: list[tuple[int, Load]] = []
        known = {load[0] for load in reported}
        for replica in self._index.replicas_on(node.id):
            if replica.state is not ReplicaState.STARTING or replica.is_leaving:
                continue
            model = self._rows.models.get(replica.model)
            if model is None or model in known:
                continue
            known.add(model)
            if not self._table.read("residency")[model, row] & _DRAM:
                channel = int(self._table.read("copy_channel")[model, row])
                size = self._state.models[replica.model].size_bytes
                found.append((self._index.place_of(replica.id), (model, row, channel, size)))
        return found


def _empty(n_models: int, n_nodes: int, n_engines: int) -> Columns:
    whole = ("devices", "devices_free", "dram_bytes", "dram_free_bytes", "link", "version")
    columns: Columns = {f"node_{name}": np.zeros(n_nodes, np.int64) for name in whole}
    return columns | {
        "node_is_up": np.zeros(n_nodes, np.bool_),
        "warm_workers": np.zeros((n_engines, n_nodes), np.int64),
        "node_has_engine": np.zeros((n_engines, n_nodes), np.bool_),
        "residency": np.zeros((n_models, n_nodes), np.uint8),
        "copy_channel": np.full((n_models, n_nodes), -1, np.int64),
    }
