"""Columns of start times, by phase, and who gives them."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from pilotlight.estimators.view import ClusterView, FlagArray, FloatArray, IntArray


class Phase(enum.IntEnum):
    """The parts of a start that do not depend on what else happens in the cluster."""

    TRANSFER = 0
    WORKER = 1
    """Until the worker has done all that needs no weights; runs beside the transfer."""
    BIND = 2
    PREFILL = 3


class Quantile(enum.IntEnum):
    """Which value of an estimate."""

    P50 = 0
    P90 = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class StartTimes:
    """Start times of models (rows) on nodes (columns).

    `seconds` has the shape [quantile, phase, model, node]; the transfer is
    infinite where the node holds no usable copy. `residency` [model, node] says
    where the bytes lie.
    """

    seconds: FloatArray
    residency: FlagArray
    disk_seconds: FloatArray
    """[quantile, model, node]: how long the node's disk is busy with it; 0 from DRAM."""

    def phase(self, phase: Phase, quantile: Quantile = Quantile.P50) -> FloatArray:
        """Return one phase's [model, node] seconds."""
        column: FloatArray = self.seconds[quantile, phase]
        return column

    def total(self, quantile: Quantile = Quantile.P50) -> FloatArray:
        """Return [model, node] seconds of a start that waits for nothing else."""
        transfer, worker, bind, prefill = self.seconds[quantile]
        total: FloatArray = np.maximum(transfer, worker) + bind + prefill
        return total


class Forecast(Protocol):
    """What is known of how long things take."""

    def start_times(self, view: ClusterView, models: IntArray, nodes: IntArray) -> StartTimes:
        """Return the columns for rows `models` of the view, on its rows `nodes`."""
        ...

    def bytes_per_second(self, view: ClusterView) -> FloatArray:
        """Return [quantile, channel]: the median bandwidth, and what nine of ten loads exceed."""
        ...
