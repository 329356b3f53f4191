"""What the members of groups are called."""

from __future__ import annotations

from collections.abc import Sequence

from pilotlight.scheduler.simulation.scenarios.cluster import Cluster, SharedChannel
from pilotlight.scheduler.simulation.scenarios.models import ModelGroup
from pilotlight.store_node.protocol import ModelId, NodeId


def members(name: str, count: int) -> list[str]:
    """Return NAME-1, NAME-2 and so on, or NAME where there is one."""
    return [name] if count == 1 else [f"{name}-{number}" for number in range(1, count + 1)]


def node_names(cluster: Cluster) -> list[NodeId]:
    """Return all nodes, in the order of the file."""
    return [NodeId(name) for group in cluster.nodes for name in members(group.name, group.count)]


def model_names(groups: Sequence[ModelGroup]) -> list[ModelId]:
    """Return all models of these groups, in their order."""
    return [ModelId(name) for group in groups for name in members(group.name, group.count)]


def channel_names(channel: SharedChannel, n_nodes: int) -> list[str]:
    """Return the channels that a cluster of so many nodes has of it."""
    each = channel.nodes_each
    return members(channel.name, 1 if not each else -(-n_nodes // each))


def disk_name(disk: str, node: str) -> str:
    """Return what the channel of a node's own disk is called."""
    return f"{disk}@{node}"


def link_name(number: int, node: str) -> str:
    """Return what the channel from a node's DRAM to one of its devices is called."""
    return f"device-{number}@{node}"
