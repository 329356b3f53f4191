"""The graph of what carries bytes: disks, memories and devices, and the channels between them."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass

import networkx as nx

from pilotlight.estimators.view import ClusterView

Place = tuple[str, str]
"""("disk", channel), ("dram", node) or ("device", node)."""

_NO_CHANNEL = -1


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
            dram, device = ("dram", node), ("device", node)
            link, disk = int(view.node_link[row]), int(view.node_channel[row])
            self.graph.add_edge(dram, device, channel=names[link] if link >= 0 else None)
            if disk != _NO_CHANNEL:
                self.graph.add_edge(("disk", names[disk]), dram, channel=names[disk])

    def from_dram(self, node: str) -> Path:
        """Return the way from a node's DRAM to its devices."""
        return self._path([("dram", node), ("device", node)])

    def from_ssd(self, node: str) -> Path | None:
        """Return the way from a node's SSD tier to its devices; None where it has no disk."""
        disks = [place for place in self.graph.predecessors(("dram", node)) if place[0] == "disk"]
        if not disks:
            return None
        return self._path([disks[0], ("dram", node), ("device", node)])

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
