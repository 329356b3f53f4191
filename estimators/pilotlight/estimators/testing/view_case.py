"""A view of a cluster that does not exist, in a few lines."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from pilotlight.estimators.view import FlagArray, FloatArray, IntArray, Residency

GIGABYTE = 10**9


@dataclass(frozen=True, slots=True, kw_only=True)
class StaticView:
    """A `ClusterView` of given columns."""

    now: float
    model_ids: tuple[str, ...]
    model_size_bytes: IntArray
    model_devices: IntArray
    model_engine: IntArray
    engine_ids: tuple[str, ...]
    node_ids: tuple[str, ...]
    node_devices_free: IntArray
    warm_workers: IntArray
    residency: FlagArray
    copy_channel: IntArray
    node_link: IntArray
    channel_ids: tuple[str, ...]
    channel_bytes_per_second: FloatArray
    channel_latency_seconds: FloatArray
    load_model: IntArray
    load_node: IntArray
    load_channel: IntArray
    load_left_bytes: IntArray
    replica_ids: tuple[str, ...]
    replica_node: IntArray
    replica_devices: IntArray


@dataclass(frozen=True, slots=True)
class _Model:
    name: str
    size_bytes: int
    devices: int
    engine: str


@dataclass(frozen=True, slots=True)
class _Node:
    name: str
    devices: int
    ssd: frozenset[int]
    dram: frozenset[int]
    disk: str
    other_disks: Mapping[int, str]
    link: str
    warm_workers: int

    def disk_of(self, model: int) -> str:
        if model >= 0 and model not in self.ssd:
            return ""
        return self.other_disks.get(model, self.disk)


@dataclass(frozen=True, slots=True)
class _Channel:
    bytes_per_second: float
    latency_seconds: float


class ViewCase:
    """Collects what a cluster has; every method that adds something returns its row."""

    def __init__(self) -> None:
        self._models: list[_Model] = []
        self._nodes: list[_Node] = []
        self._channels: dict[str, _Channel] = {}
        self._loads: list[tuple[int, int, int]] = []
        self._replicas: list[tuple[int, int]] = []

    def model(self, *, size_bytes: int = GIGABYTE, devices: int = 1, engine: str = "timed") -> int:
        """Add a model."""
        name = f"model-{len(self._models)}"
        self._models.append(_Model(name, size_bytes, devices, engine))
        return len(self._models) - 1

    def node(
        self,
        *,
        devices: int = 1,
        ssd: Iterable[int] = (),
        dram: Iterable[int] = (),
        disk: str | None = None,
        other_disks: Mapping[int, str] | None = None,
        link: str = "",
        warm_workers: int = 1,
    ) -> int:
        """Add a node: one disk of its own, unless `disk` names one, or "" none.

        `other_disks` says which models lie on another one.
        """
        name = f"node-{len(self._nodes)}"
        disk = f"disk-of-{name}" if disk is None else disk
        other_disks = dict(other_disks or {})
        for channel in (disk, *other_disks.values(), link):
            if channel and channel not in self._channels:
                self.channel(channel)
        dram = frozenset(dram)
        ssd = frozenset(ssd) | dram
        self._nodes.append(_Node(name, devices, ssd, dram, disk, other_disks, link, warm_workers))
        return len(self._nodes) - 1

    def channel(
        self, name: str, *, bytes_per_second: float = 1.0e9, latency_seconds: float = 0.0
    ) -> int:
        """Say how fast a channel is; a gigabyte per second where nothing is said."""
        self._channels[name] = _Channel(bytes_per_second, latency_seconds)
        return list(self._channels).index(name)

    def load(self, model: int, node: int, *, left_bytes: int) -> int:
        """Let a load be in flight; model -1 is none that is deployed."""
        self._loads.append((model, node, left_bytes))
        return len(self._loads) - 1

    def replica(self, node: int, *, devices: int = 1) -> int:
        """Let a replica run, besides the node's free devices."""
        self._replicas.append((node, devices))
        return len(self._replicas) - 1

    def view(self) -> StaticView:
        """Return the columns."""
        models, nodes = self._models, self._nodes
        engines = list(dict.fromkeys(model.engine for model in models))
        channels = list(self._channels)
        rows = {"": -1} | {channel: row for row, channel in enumerate(channels)}
        warm = [[node.warm_workers for node in nodes] for _ in engines]
        return StaticView(
            now=0.0,
            model_ids=tuple(model.name for model in models),
            model_size_bytes=_ints(model.size_bytes for model in models),
            model_devices=_ints(model.devices for model in models),
            model_engine=_ints(engines.index(model.engine) for model in models),
            engine_ids=tuple(engines),
            node_ids=tuple(node.name for node in nodes),
            node_devices_free=_ints(node.devices for node in nodes),
            warm_workers=np.array(warm, np.int64).reshape(len(engines), len(nodes)),
            residency=self._residency(),
            copy_channel=np.array(
                [[rows[node.disk_of(model)] for node in nodes] for model in range(len(models))],
                np.int64,
            ).reshape(len(models), len(nodes)),
            node_link=_ints(rows[node.link] for node in nodes),
            channel_ids=tuple(channels),
            channel_bytes_per_second=_floats(
                channel.bytes_per_second for channel in self._channels.values()
            ),
            channel_latency_seconds=_floats(
                channel.latency_seconds for channel in self._channels.values()
            ),
            load_model=_ints(load[0] for load in self._loads),
            load_node=_ints(load[1] for load in self._loads),
            load_channel=_ints(rows[nodes[node].disk_of(model)] for model, node, _ in self._loads),
            load_left_bytes=_ints(load[2] for load in self._loads),
            replica_ids=tuple(f"replica-{row}" for row in range(len(self._replicas))),
            replica_node=_ints(node for node, _ in self._replicas),
            replica_devices=_ints(devices for _, devices in self._replicas),
        )

    def _residency(self) -> FlagArray:
        residency = np.zeros((len(self._models), len(self._nodes)), np.uint8)
        for column, node in enumerate(self._nodes):
            residency[list(node.ssd), column] |= np.uint8(Residency.SSD)
            residency[list(node.dram), column] |= np.uint8(Residency.DRAM)
        return residency


def _ints(values: Iterable[int]) -> IntArray:
    array = np.fromiter(values, np.int64)
    array.setflags(write=False)
    return array


def _floats(values: Iterable[float]) -> FloatArray:
    array = np.fromiter(values, np.float64)
    array.setflags(write=False)
    return array
