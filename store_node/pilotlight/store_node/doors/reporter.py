"""Puts together what the node tells the controller."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from pilotlight.store_node.core import Capacity, NodeCore
from pilotlight.store_node.protocol import (
    Channel,
    ChannelId,
    Engine,
    Hello,
    Incarnation,
    NodeId,
    NodeReport,
    NodeResources,
    NodeUpdate,
)
from pilotlight.store_node.shell.identity import package_version

DEVICE_KIND = "cpu"


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeFacts:
    """What does not change while a node runs."""

    node_id: NodeId
    incarnation: Incarnation
    capacity: Capacity
    engines: Mapping[str, str]
    """Versions by name."""


class Reporter:
    """Reports and heartbeats, from the core and from what only the shell knows."""

    def __init__(
        self, core: NodeCore, facts: NodeFacts, *, warm_count: Callable[[], dict[str, int]]
    ) -> None:
        self._core = core
        self._facts = facts
        self._warm_count = warm_count
        self._version = package_version()
        self._channels: dict[ChannelId, Channel] = {}
        self.address = ""
        """Where the node's service is to be called; known once it listens."""

    def note_channel(self, channel: Channel) -> None:
        """Take what is assumed or measured of a channel."""
        self._channels[channel.channel_id] = channel

    def hello(self) -> Hello:
        """Return how a session begins."""
        return Hello(
            node_id=self._facts.node_id,
            incarnation=self._facts.incarnation,
            epoch=self._core.epoch,
        )

    def report(self) -> NodeReport:
        """Return everything."""
        facts, reports, capacity = self._facts, self._core.reports, self._facts.capacity
        return NodeReport(
            node_id=facts.node_id,
            incarnation=facts.incarnation,
            address=self.address,
            epoch=self._core.epoch,
            resources=NodeResources(
                devices=capacity.n_devices,
                device_kind=DEVICE_KIND,
                device_bytes=capacity.device_chunks * capacity.chunk_bytes,
                dram_bytes=capacity.dram_chunks * capacity.chunk_bytes,
                channels=tuple(self._channels.values()),
            ),
            engines=tuple(
                Engine(name=name, version=version) for name, version in facts.engines.items()
            ),
            checkpoints=reports.checkpoints(),
            replicas=reports.replicas(),
            loads=reports.loads(),
            warm_workers=self._warm_count(),
            accounts=reports.accounts(),
            summaries=reports.summaries(now=_now()),
            version=self._version,
        )

    def heartbeat(self) -> NodeUpdate:
        """Return the summaries of now."""
        reports = self._core.reports
        return NodeUpdate(
            loads=reports.loads(),
            summaries=reports.summaries(now=_now()),
            has_summaries=True,
            warm_workers=self._warm_count(),
            accounts=reports.accounts(),
        )


def _now() -> float:
    return asyncio.get_running_loop().time()
