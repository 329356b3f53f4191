"""What an estimator sees of the cluster: columns, addressed by row."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
FlagArray = npt.NDArray[np.uint8]
BoolArray = npt.NDArray[np.bool_]


class Residency(enum.IntFlag):
    """Where one model's checkpoint lies on one node, whole and usable."""

    SSD = 1
    DRAM = 2
    """All chunks in memory: cached, pinned, or bound to a replica that shares them."""
    BOUND = 4
    PINNED = 8
    LOADING = 16


class ClusterView(Protocol):
    """The columns that start times depend on.

    M models, N nodes, C channels, E engines, R replicas, L loads in flight; all
    arrays are read-only. The scheduler's snapshot is one.
    """

    @property
    def now(self) -> float:
        """Monotonic seconds."""
        ...

    @property
    def model_ids(self) -> Sequence[str]: ...

    @property
    def model_size_bytes(self) -> IntArray:
        """[M]."""
        ...

    @property
    def model_devices(self) -> IntArray:
        """[M] devices for one replica."""
        ...

    @property
    def model_engine(self) -> IntArray:
        """[M] rows of `engine_ids`."""
        ...

    @property
    def engine_ids(self) -> Sequence[str]: ...

    @property
    def node_ids(self) -> Sequence[str]: ...

    @property
    def node_devices_free(self) -> IntArray:
        """[N] devices neither leased nor reserved; 0 where the node is down."""
        ...

    @property
    def warm_workers(self) -> IntArray:
        """[E, N]."""
        ...

    @property
    def residency(self) -> FlagArray:
        """[M, N] of `Residency`."""
        ...

    @property
    def copy_channel(self) -> IntArray:
        """[M, N] row of the channel that a node's copy of a model is read over; -1 = none."""
        ...

    @property
    def node_link(self) -> IntArray:
        """[N] row of the channel between the node's DRAM and its devices; -1 = nothing to cross."""
        ...

    @property
    def channel_ids(self) -> Sequence[str]: ...

    @property
    def channel_bytes_per_second(self) -> FloatArray:
        """[C] as the nodes' probes found them."""
        ...

    @property
    def channel_latency_seconds(self) -> FloatArray:
        """[C]."""
        ...

    @property
    def load_model(self) -> IntArray:
        """[L] rows of `model_ids`; -1 for a checkpoint of no deployed model."""
        ...

    @property
    def load_node(self) -> IntArray:
        """[L]."""
        ...

    @property
    def load_channel(self) -> IntArray:
        """[L] rows of `channel_ids`; -1 = unknown."""
        ...

    @property
    def load_left_bytes(self) -> IntArray:
        """[L] bytes still to come."""
        ...

    @property
    def replica_ids(self) -> Sequence[str]: ...

    @property
    def replica_node(self) -> IntArray:
        """[R]."""
        ...

    @property
    def replica_devices(self) -> IntArray:
        """[R]."""
        ...
