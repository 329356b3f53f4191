"""Channels, machines and models that a scenario describes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import msgspec

from pilotlight.scheduler.core.model import Model
from pilotlight.scheduler.simulation.network import Discipline, VirtualChannel
from pilotlight.scheduler.simulation.scenarios.cluster import Cluster, Disk, NodeGroup
from pilotlight.scheduler.simulation.scenarios.models import ModelGroup
from pilotlight.scheduler.simulation.scenarios.names import (
    channel_names,
    disk_name,
    link_name,
    members,
    node_names,
)
from pilotlight.scheduler.simulation.scenarios.placement import (
    GIBIBYTE,
    GIGABYTE,
    n_chunks,
    size_bytes,
)
from pilotlight.scheduler.simulation.serve_times import ServeTimes
from pilotlight.scheduler.simulation.virtual_node import Machine, NodeTimes
from pilotlight.store_node.core import CheckpointCopy
from pilotlight.store_node.protocol import ChannelId, ModelId, NodeId, Reference

ENGINE = "timed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Machines:
    """All nodes, and all that carries bytes."""

    by_node: Mapping[NodeId, Machine]
    channels: Mapping[str, VirtualChannel]
    """By name."""


def deployed(groups: Sequence[ModelGroup]) -> tuple[Model, ...]:
    """Return the models as a user would deploy them."""
    return tuple(
        Model(
            name=ModelId(name),
            reference=Reference(name),
            layout_id=_layout(name),
            size_bytes=size_bytes(group),
            devices=group.devices,
            engine=ENGINE,
            min_replicas=group.min_replicas,
            max_replicas=group.max_replicas,
            concurrency=group.concurrency,
            keep_alive_seconds=(
                None if group.keep_alive_seconds == "load" else group.keep_alive_seconds
            ),
            priority=group.priority,
        )
        for group in groups
        for name in members(group.name, group.count)
    )


def machines(
    cluster: Cluster,
    groups: Sequence[ModelGroup],
    on_disk: Mapping[NodeId, Sequence[ModelId]],
    serve_times: Callable[[ModelId], ServeTimes],
) -> Machines:
    """Return the nodes with what lies on their disks; each call makes channels of its own."""
    shared = _shared_channels(cluster)
    channels = {each.name: each for each in shared.values()}
    group_of = {name: group for group in groups for name in members(group.name, group.count)}
    found: dict[NodeId, Machine] = {}
    for number, (node, group) in enumerate(_nodes(cluster)):
        disks = {
            ChannelId(path[0].name): path
            for path in (_path(disk, node, number, shared) for disk in group.disks)
        }
        links = tuple(_links(group, node))
        names = list(disks)
        found[node] = Machine(
            devices=group.devices,
            device_bytes=int(group.device_gib * GIBIBYTE),
            dram_bytes=round(group.dram_gb * GIGABYTE),
            copies=tuple(
                _copy(model, group_of[model], names[row % len(names)])
                for row, model in enumerate(on_disk[node])
            ),
            disks=disks,
            links=links,
            engine=ENGINE,
            warm_workers=group.warm_workers,
            concurrency=group.concurrency,
            times=NodeTimes(**msgspec.structs.asdict(group.times)),
            serve_times=serve_times,
        )
        channels |= {each.name: each for path in disks.values() for each in path}
        channels |= {each.name: each for each in links}
    return Machines(by_node=found, channels=channels)


def _nodes(cluster: Cluster) -> Iterator[tuple[NodeId, NodeGroup]]:
    for group in cluster.nodes:
        for name in members(group.name, group.count):
            yield NodeId(name), group


def _shared_channels(cluster: Cluster) -> dict[tuple[str, int], VirtualChannel]:
    """Return the shared channels, by name and the number of each node that has its share."""
    n_nodes = len(node_names(cluster))
    found: dict[tuple[str, int], VirtualChannel] = {}
    for channel in cluster.channels:
        made = [
            VirtualChannel(
                name=name,
                bytes_per_second=channel.bytes_per_second,
                discipline=channel.discipline,
            )
            for name in channel_names(channel, n_nodes)
        ]
        for node in range(n_nodes):
            each = channel.nodes_each or n_nodes
            found[channel.name, node] = made[node // each]
    return found


def _path(
    disk: Disk, node: NodeId, number: int, shared: Mapping[tuple[str, int], VirtualChannel]
) -> tuple[VirtualChannel, ...]:
    """Return the channels from a disk to its node's DRAM, the disk first."""
    via = tuple(shared[name, number] for name in disk.via)
    if disk.channel:
        return (shared[disk.channel, number], *via)
    assert disk.bytes_per_second is not None, "a disk of its own has a bandwidth"
    own = VirtualChannel(
        name=disk_name(disk.name, node),
        bytes_per_second=disk.bytes_per_second,
        discipline=disk.discipline,
    )
    return (own, *via)


def _links(group: NodeGroup, node: NodeId) -> Iterator[VirtualChannel]:
    if group.device_bytes_per_second is None:
        return
    for number in range(group.devices):
        yield VirtualChannel(
            name=link_name(number, node),
            bytes_per_second=group.device_bytes_per_second,
            # A device is one replica's at a time: nothing waits for a turn there.
            discipline=Discipline.SHARED,
        )


def _copy(model: ModelId, group: ModelGroup, disk: ChannelId) -> CheckpointCopy:
    return CheckpointCopy(
        reference=Reference(model),
        path=f"/models/{model}",
        identity=model,
        ssd_channel=disk,
        layout_id=_layout(model),
        size_bytes=size_bytes(group),
        n_chunks=n_chunks(group),
    )


def _layout(model: str) -> str:
    return f"layout-{model}"
