"""The built-in estimator: learns bandwidth by channel, other phases by what they depend on."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec
import numpy as np

from pilotlight.estimators.calibration import Learned, LogNormal, Measurement
from pilotlight.estimators.start_times import Phase, Quantile, StartTimes
from pilotlight.estimators.timeline import Timeline
from pilotlight.estimators.topology import Topology
from pilotlight.estimators.view import ClusterView, FloatArray, IntArray, Residency


@dataclass(frozen=True, slots=True, kw_only=True)
class Priors:
    """What is believed before anything was measured; the first starts overtake it."""

    bytes_per_second: float = 1.0e9
    """Of a channel that could not be probed: a slow NVMe drive."""
    attach_seconds: float = 0.002
    """Mapping chunks that are already in memory."""
    warm_worker_seconds: float = 0.1
    """A warm worker builds the model without weights."""
    cold_worker_seconds: float = 5.0
    """Starting an interpreter and importing an inference library."""
    bind_seconds: float = 0.05
    prefill_seconds: float = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class _NodeColumns:
    """What start times need of the nodes of one view.

    A node's disks are numbered from 0.
    """

    view: ClusterView
    lessons: int
    disk: IntArray
    """[model, node] number of the disk that the copy lies on; 0 where there is none."""
    ssd_seconds_per_byte: FloatArray
    """[quantile, disk, node]."""
    latency_seconds: FloatArray
    """[disk, node]."""
    dram_seconds_per_byte: FloatArray
    """[quantile, node]."""
    attach_seconds: FloatArray
    """[quantile, node]."""


class StartEstimator:
    """Predicts a start as max(transfer, worker) + bind + prefill.

    The transfer is latency + bytes / slowest hop (paper section 5.1). A worker's
    readiness depends on engine and node, bind and prefill on the model.
    """

    def __init__(self, priors: Priors | None = None) -> None:
        self._priors = priors or Priors()
        self._channel = Learned(self._priors.bytes_per_second)
        self._attach = Learned(self._priors.attach_seconds)
        self._worker = Learned(self._priors.warm_worker_seconds)
        self._bind = Learned(self._priors.bind_seconds)
        self._prefill = Learned(self._priors.prefill_seconds)
        self._lessons = 0
        self._cached: _NodeColumns | None = None

    def observe(self, measurement: Measurement) -> None:
        """Learn from one start; values that can't be true are passed over."""
        self._lessons += 1
        if measurement.transfer_seconds is not None:
            self._observe_transfer(measurement, measurement.transfer_seconds)
        if measurement.worker_seconds is not None:
            key = _worker_key(measurement.engine, measurement.node)
            self._worker.observe(key, measurement.worker_seconds)
        if measurement.bind_seconds is not None:
            self._bind.observe(measurement.model, measurement.bind_seconds)
        if measurement.prefill_seconds is not None:
            self._prefill.observe(measurement.model, measurement.prefill_seconds)

    def start_times(self, view: ClusterView, models: IntArray, nodes: IntArray) -> StartTimes:
        """Return the columns for rows `models` of the view, on its rows `nodes`."""
        known = self._node_columns(view)
        chosen = np.ix_(models, nodes)
        residency = view.residency[chosen]
        in_dram = (residency & Residency.DRAM) != 0
        on_ssd = ((residency & Residency.SSD) != 0) & (view.copy_channel[chosen] >= 0)
        sizes = view.model_size_bytes[models].astype(np.float64)[None, :, None]
        number = known.disk[chosen]
        disk = sizes * known.ssd_seconds_per_byte[:, number, nodes]
        disk += known.latency_seconds[number, nodes]
        link = sizes * known.dram_seconds_per_byte[:, None, nodes]
        disk[:, in_dram | ~on_ssd] = 0.0
        seconds = np.empty((len(Quantile), len(Phase), len(models), len(nodes)))
        seconds[:, Phase.TRANSFER] = np.where(in_dram, link, disk)
        seconds[:, Phase.TRANSFER] += known.attach_seconds[:, None, nodes]
        seconds[:, Phase.TRANSFER, ~(in_dram | on_ssd)] = np.inf
        seconds[:, Phase.WORKER] = self._worker_seconds(view, models, nodes)
        seconds[:, Phase.BIND] = self._by_model(self._bind, view, models)
        seconds[:, Phase.PREFILL] = self._by_model(self._prefill, view, models)
        return StartTimes(seconds=seconds, residency=residency, disk_seconds=disk)

    def bytes_per_second(self, view: ClusterView) -> FloatArray:
        """Return [quantile, channel]: the median bandwidth, and what nine of ten loads exceed."""
        probed = view.channel_bytes_per_second.tolist()
        known = [
            self._channel.get(channel, prior=prior)
            for channel, prior in zip(view.channel_ids, probed, strict=True)
        ]
        return np.array([[item.p50 for item in known], [item.p10 for item in known]])

    def lessons(self) -> object:
        """Return all that was learned, as plain data that JSON can carry."""
        return msgspec.to_builtins(self._learned())

    def take_up(self, lessons: object) -> None:
        """Know what another instance's `lessons` said, and nothing else."""
        known = msgspec.convert(lessons, dict[str, Learned])
        self._channel, self._attach = known["channel"], known["attach"]
        self._worker, self._bind = known["worker"], known["bind"]
        self._prefill = known["prefill"]
        self._lessons += 1

    def timeline(self, view: ClusterView) -> Timeline:
        """Return the evaluator that begins with the view's present state."""
        return Timeline(view, self)

    def _learned(self) -> dict[str, Learned]:
        return {
            "channel": self._channel,
            "attach": self._attach,
            "worker": self._worker,
            "bind": self._bind,
            "prefill": self._prefill,
        }

    def _observe_transfer(self, measurement: Measurement, seconds: float) -> None:
        if measurement.bytes_read == 0:
            self._attach.observe(measurement.node, seconds)
        elif measurement.teaches_disk and measurement.channel and seconds > 0.0:
            self._channel.observe(measurement.channel, measurement.bytes_read / seconds)

    def _node_columns(self, view: ClusterView) -> _NodeColumns:
        cached = self._cached
        if cached is None or cached.view is not view or cached.lessons != self._lessons:
            cached = self._cached = self._build_node_columns(view)
        return cached

    def _build_node_columns(self, view: ClusterView) -> _NodeColumns:
        topology = Topology(view)
        channels = view.channel_ids
        latencies = dict(zip(channels, view.channel_latency_seconds.tolist(), strict=True))
        speeds = [
            dict(zip(channels, row, strict=True)) for row in self.bytes_per_second(view).tolist()
        ]
        disks = [topology.disks(node) for node in view.node_ids]
        most, n_nodes = max([1, *map(len, disks)]), len(view.node_ids)
        ssd = np.zeros((len(Quantile), most, n_nodes))
        latency = np.zeros((most, n_nodes))
        dram = np.zeros((len(Quantile), n_nodes))
        number_of = np.zeros_like(view.copy_channel)
        rows = {channel: row for row, channel in enumerate(channels)}
        for column, node in enumerate(view.node_ids):
            link = topology.from_dram(node)
            dram[:, column] = [1.0 / link.bytes_per_second(known) for known in speeds]
            for number, disk in enumerate(disks[column]):
                path = topology.from_disk(disk, node)
                ssd[:, number, column] = [1.0 / path.bytes_per_second(known) for known in speeds]
                latency[number, column] = path.latency_seconds(latencies)
                number_of[view.copy_channel[:, column] == rows[disk], column] = number
        return _NodeColumns(
            view=view,
            lessons=self._lessons,
            disk=number_of,
            ssd_seconds_per_byte=ssd,
            latency_seconds=latency,
            dram_seconds_per_byte=dram,
            attach_seconds=_quantiles([self._attach.get(node) for node in view.node_ids]),
        )

    def _worker_seconds(self, view: ClusterView, models: IntArray, nodes: IntArray) -> FloatArray:
        engines = view.model_engine[models]
        seconds = np.empty((len(Quantile), len(models), len(nodes)))
        names = [view.node_ids[int(node)] for node in nodes]
        for row, engine in enumerate(view.engine_ids[int(engine)] for engine in engines):
            known = [self._worker.get(_worker_key(engine, name)) for name in names]
            seconds[:, row] = _quantiles(known)
        is_cold = view.warm_workers[np.ix_(engines, nodes)] == 0
        seconds[:, is_cold] += self._priors.cold_worker_seconds
        return seconds

    @staticmethod
    def _by_model(learned: Learned, view: ClusterView, models: IntArray) -> FloatArray:
        """Return [quantile, model, 1]."""
        return _quantiles([learned.get(view.model_ids[int(row)]) for row in models])[:, :, None]


def _quantiles(known: list[LogNormal]) -> FloatArray:
    return np.array([[item.p50 for item in known], [item.p90 for item in known]])


def _worker_key(engine: str, node: str) -> str:
    return f"{engine}@{node}"
