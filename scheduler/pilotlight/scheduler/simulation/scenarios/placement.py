"""On which nodes copies of the models lie, on disk and in DRAM."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

from pilotlight.scheduler.simulation.scenarios.cluster import Cluster, NodeGroup
from pilotlight.scheduler.simulation.scenarios.models import ModelGroup
from pilotlight.scheduler.simulation.scenarios.names import members
from pilotlight.scheduler.simulation.virtual_node import CHUNK_BYTES
from pilotlight.store_node.protocol import ModelId, NodeId

GIGABYTE = 10**9
GIBIBYTE = 2**30


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """What lies where, before the first request."""

    on_disk: Mapping[NodeId, Sequence[ModelId]]
    in_dram: Sequence[tuple[ModelId, NodeId]]


def size_bytes(group: ModelGroup) -> int:
    """Return the size of one of its checkpoints."""
    return max(round(group.size_gb * GIGABYTE), 1)


def n_chunks(group: ModelGroup) -> int:
    """Return in how many chunks one of its checkpoints lies in memory."""
    return -(-size_bytes(group) // CHUNK_BYTES)


def fits(group: ModelGroup, node: NodeGroup) -> bool:
    """Return whether a node can have a replica of a model."""
    device_chunks = int(node.device_gib * GIBIBYTE) // CHUNK_BYTES
    return group.devices <= node.devices and n_chunks(group) <= group.devices * device_chunks


def place(
    cluster: Cluster, groups: Sequence[ModelGroup], shares: Mapping[ModelId, float]
) -> Placement:
    """Place all copies; `shares` say how much of all requests is for each model.

    Where copies are dealt round robin, a node that can't run the model gets none.
    """
    holders = _Holders(cluster).deal(groups, shares)
    on_disk: dict[NodeId, list[ModelId]] = {
        NodeId(name): [] for node in cluster.nodes for name in members(node.name, node.count)
    }
    for model, nodes in holders.items():
        for node in nodes:
            on_disk[node].append(model)
    return Placement(on_disk=on_disk, in_dram=_fill_dram(cluster, groups, holders))


class _Holders:
    """Deals copies to nodes, for each group of models where the last one ended."""

    def __init__(self, cluster: Cluster) -> None:
        self._nodes = {
            group.name: [NodeId(name) for name in members(group.name, group.count)]
            for group in cluster.nodes
        }
        self._groups = cluster.nodes
        self._next = 0

    def deal(
        self, groups: Sequence[ModelGroup], shares: Mapping[ModelId, float]
    ) -> dict[ModelId, list[NodeId]]:
        """Return the nodes that have a copy, by model."""
        found: dict[ModelId, list[NodeId]] = {}
        for group in groups:
            models = [ModelId(name) for name in members(group.name, group.count)]
            able = list(
                chain.from_iterable(
                    self._nodes[node.name] for node in self._groups if fits(group, node)
                )
            )
            total = sum(shares.get(model, 0.0) for model in models)
            for model in models:
                part = shares.get(model, 0.0) / total if total else 1.0 / len(models)
                found[model] = self._nodes_of(group, able, part)
        return found

    def _nodes_of(self, group: ModelGroup, able: list[NodeId], share: float) -> list[NodeId]:
        copies = group.copies
        if copies.placed == "listed":
            return [NodeId(name) for name in copies.nodes]
        if copies.placed == "everywhere":
            return list(chain.from_iterable(self._nodes.values()))
        wanted = copies.each
        if copies.placed == "by_popularity":
            wanted *= share * group.count
        n_copies = min(max(round(wanted), 1), len(able))
        first, self._next = self._next, self._next + n_copies
        return [able[(first + number) % len(able)] for number in range(n_copies)]


def _fill_dram(
    cluster: Cluster, groups: Sequence[ModelGroup], holders: Mapping[ModelId, Sequence[NodeId]]
) -> list[tuple[ModelId, NodeId]]:
    left_chunks = {
        NodeId(name): round(node.dram_gb * GIGABYTE) // CHUNK_BYTES
        for node in cluster.nodes
        for name in members(node.name, node.count)
    }
    found: dict[tuple[ModelId, NodeId], None] = {}
    turn = 0
    for copy in range(max((group.copies.in_dram for group in groups), default=0)):
        for group in groups:
            if copy >= group.copies.in_dram:
                continue
            needed = n_chunks(group)
            for name in members(group.name, group.count):
                model = ModelId(name)
                nodes = holders[model]
                in_turn = (nodes[(turn + number) % len(nodes)] for number in range(len(nodes)))
                for node in in_turn:
                    if left_chunks[node] >= needed and (model, node) not in found:
                        left_chunks[node] -= needed
                        found[model, node] = None
                        break
                turn += 1
    return list(found)
