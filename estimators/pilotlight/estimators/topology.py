"""The graph of what carries bytes: disks, memories and devices, and the channels between them."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass

import networkx as nx
import numpy as np

from pilotlight.estimators.view import ClusterView

Place = tuple[str, str]
"""("disk", channel), ("dram", node) or ("device", node)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Path:
    """The channels that bytes cross on their way into a node's devices, in order."""

    channels: tuple[str, ...]

    def bytes_per_second(self, bandwidth: Mapping[str, float]) -> float:
        """Return the bandwidth of the slowest hop (paper section 5.1); infinite without hops."""
        return min((bandwidth[channel] for channel in self.channels), default=float("inf"))

    def latency_seconds(self, latency: Mapping[str, float]) -> float:
        """Return the latency through all hops."""
        return sum(latency[channel] for channel in self.channels)


class Topology:
    """Which channels a transfer occupies; nodes that share a disk meet at its vertex."""

    def __init__(self, view: ClusterView) -> None:
        self.graph: nx.DiGraph[Place] = nx.DiGraph()
        names = view.channel_ids
        for row, node in enumerate(view.node_ids):
            link = int(view.node_link[row])
            channel = names[link] if link >= 0 else None
            self.graph.add_edge(("dram", node), ("device", node), channel=channel)
        for disk, row in _disks_in_use(view):
            node = view.node_ids[row]
            self.graph.add_edge(("disk", names[disk]), ("dram", node), channel=names[disk])

    def from_dram(self, node: str) -> Path:
        """Return the way from a node's DRAM to its devices."""
        return self._path([("dram", node), ("device", node)])

    def disks(self, node: str) -> list[str]:
        """Return the channels that a node's copies are read over."""
        return [channel for _, channel in self.graph.predecessors(("dram", node))]

    def from_disk(self, channel: str, node: str) -> Path:
        """Return the way from one of a node's disks to its devices."""
        return self._path([("disk", channel), ("dram", node), ("device", node)])

    def sharers(self, channel: str) -> list[str]:
        """Return the nodes whose SSD tier is read over a channel."""
        disk = ("disk", channel)
        if disk not in self.graph:
            return []
        return [node for _, node in self.graph.successors(disk)]

    def _path(self, places: list[Place]) -> Path:
        hops = itertools.pairwise(places)
        crossed = [self.graph.edges[hop]["channel"] for hop in hops]
        return Path(channels=tuple(channel for channel in crossed if channel is not None))


def _disks_in_use(view: ClusterView) -> list[tuple[int, int]]:
    """Return the rows of channels and nodes where the one carries copies of the other."""
    n_nodes = len(view.node_ids)
    channel = view.copy_channel
    pairs = np.unique((channel * n_nodes + np.arange(n_nodes))[channel >= 0])
    return [divmod(pair, n_nodes) for pair in pairs.tolist()]
