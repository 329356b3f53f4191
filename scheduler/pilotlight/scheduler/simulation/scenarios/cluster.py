"""The section `cluster`: nodes, and what carries bytes between and within them."""

from __future__ import annotations

from typing import Annotated

import msgspec

from pilotlight.scheduler.simulation.network import Discipline
from pilotlight.scheduler.simulation.scenarios.section import (
    Amount,
    Count,
    Name,
    Number,
    Positive,
    Room,
    Section,
    Size,
    Spread,
)


class SharedChannel(Section, frozen=True, kw_only=True):
    """What several nodes read through: a SAN, or the network card of their host."""

    name: Name
    bytes_per_second: Positive
    discipline: Discipline = Discipline.SHARED
    """Only the first channel of a path may serve in turn, which is the disk."""
    nodes_each: Count = 0
    """How many nodes share one of them, in the order of the file; 0 = all share one."""


class Disk(Section, frozen=True, kw_only=True):
    """A disk of each node of a group: its own, or a shared channel."""

    name: Name = "disk"
    """Its channel is NAME@NODE, unless it is shared."""
    bytes_per_second: Positive | None = None
    discipline: Discipline = Discipline.IN_TURN
    channel: str = ""
    """A shared channel that is this disk, instead of an own one."""
    via: tuple[str, ...] = ()
    """Shared channels that the bytes cross on their way to the node's DRAM."""


class Times(Section, frozen=True, kw_only=True):
    """What a node's work takes that is not bytes or tokens, in seconds."""

    warm_worker_seconds: Amount = 0.1
    """Until a warm worker has done all that needs no weights."""
    cold_worker_seconds: Amount = 5.0
    """Until there is a worker, where no warm one is left."""
    bind_seconds: Amount = 0.05
    teardown_seconds: Amount = 0.1
    report_seconds: Amount = 0.001
    """From a change until the controller hears of it."""
    heartbeat_seconds: Annotated[float, msgspec.Meta(ge=0.001, le=1e9)] = 1.0
    noise: Spread = 0.0
    """Standard deviation of the logarithm of everything that a worker does."""
    transfer_noise: Spread = 0.0
    """The same of what moving bytes takes, from disks and to devices."""
    node_spread: Spread = 0.0
    """The same of how slow a node's transfers are beside other nodes', all of them."""


class NodeGroup(Section, frozen=True, kw_only=True):
    """Nodes that are alike: NAME-1, NAME-2 and so on, or NAME where there is one."""

    name: Name
    count: Number = 1
    devices: Number
    device_gib: Size
    """Weights that one device holds."""
    dram_gb: Room
    """Checkpoints kept in memory, beside what devices hold."""
    disks: tuple[Disk, ...]
    """The copies of checkpoints are dealt to them in turn."""
    device_bytes_per_second: Positive | None = None
    """From DRAM to one device; null = devices compute on what lies in DRAM."""
    warm_workers: Count = 4
    concurrency: Number = 1
    """Requests that an engine takes at once, at most."""
    times: Times = Times()


class Cluster(Section, frozen=True, kw_only=True):
    """What there is."""

    nodes: tuple[NodeGroup, ...]
    channels: tuple[SharedChannel, ...] = ()
    evictor: Name = "lru"
    """Which checkpoint leaves DRAM for another: an entry point of `pilotlight.evictors`."""
