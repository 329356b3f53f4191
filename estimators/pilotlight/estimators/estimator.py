"""The built-in estimator: learns bandwidth by channel, other phases by what they depend on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from operator import attrgetter

import msgspec
import numpy as np

from pilotlight.estimators.calibration import Learned, LogNormal, Measurement
from pilotlight.estimators.learned_columns import LearnedColumn
from pilotlight.estimators.start_times import Phase, Quantile, StartTimes
from pilotlight.estimators.timeline import Timeline
from pilotlight.estimators.view import ClusterView, FloatArray, IntArray, Residency

# Plain numbers: arrays meet enumerations slowly.
_SSD, _DRAM = int(Residency.SSD), int(Residency.DRAM)

_P90 = attrgetter("p90")
_P10 = attrgetter("p10")
"""A bandwidth's bad case is the lower one."""


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
class _Columns:
    """What start times need of channels and nodes, for one shape of the cluster.

    The shape is that of all views with the very same ids and probed speeds.
    """

    channel_ids: Sequence[str]
    node_ids: Sequence[str]
    probed: FloatArray
    probed_latency: FloatArray
    bytes_per_second: LearnedColumn
    """By channel; row -1, of what crosses no channel, is infinite."""
    latency_seconds: FloatArray
    """[channel], likewise 0 at -1."""
    attach_seconds: LearnedColumn
    """By node."""
    worker_seconds: dict[str, LearnedColumn]
    """By node, for each engine that was asked for."""

    def fit(self, view: ClusterView) -> bool:
        """Return whether they are of the view's shape."""
        return (
            self.channel_ids is view.channel_ids
            and self.node_ids is view.node_ids
            and self.probed is view.channel_bytes_per_second
            and self.probed_latency is view.channel_latency_seconds
        )


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
        self._columns: _Columns | None = None

    def observe(self, measurement: Measurement) -> None:
        """Learn from one start; values that can't be true are passed over."""
        if measurement.transfer_seconds is not None:
            self._observe_transfer(measurement, measurement.transfer_seconds)
        if measurement.worker_seconds is not None:
            self._observe_worker(measurement, measurement.worker_seconds)
        if measurement.bind_seconds is not None:
            self._bind.observe(measurement.model, measurement.bind_seconds)
        if measurement.prefill_seconds is not None:
            self._prefill.observe(measurement.model, measurement.prefill_seconds)

    def start_times(self, view: ClusterView, models: IntArray, nodes: IntArray) -> StartTimes:
        """Return the columns for rows `models` of the view, on its rows `nodes`.

        Its cost does not depend on how many other models, nodes and channels there are.
        """
        known = self._columns_of(view)
        chosen = np.ix_(models, nodes)
        residency, channel = view.residency[chosen], view.copy_channel[chosen]
        link = view.node_link[nodes]
        in_dram = (residency & _DRAM) != 0
        on_ssd = ((residency & _SSD) != 0) & (channel >= 0)
        sizes = view.model_size_bytes[models].astype(np.float64)[None, :, None]
        speed = known.bytes_per_second.values
        over_link = speed[:, link][:, None]
        # The slowest hop counts (paper section 5.1), the latency of all does.
        disk = sizes * (1.0 / np.minimum(speed[:, channel], over_link))
        disk += known.latency_seconds[channel] + known.latency_seconds[link]
        disk[:, in_dram | ~on_ssd] = 0.0
        seconds = np.empty((len(Quantile), len(Phase), len(models), len(nodes)))
        seconds[:, Phase.TRANSFER] = np.where(in_dram, sizes * (1.0 / over_link), disk)
        seconds[:, Phase.TRANSFER] += known.attach_seconds.values[:, None, nodes]
        seconds[:, Phase.TRANSFER, ~(in_dram | on_ssd)] = np.inf
        seconds[:, Phase.WORKER] = self._worker_seconds(known, view, models, nodes)
        seconds[:, Phase.BIND] = self._by_model(self._bind, view, models)
        seconds[:, Phase.PREFILL] = self._by_model(self._prefill, view, models)
        return StartTimes(seconds=seconds, residency=residency, disk_seconds=disk)

    def bytes_per_second(self, view: ClusterView) -> FloatArray:
        """Return [quantile, channel]: the median bandwidth, and what nine of ten loads exceed."""
        return self._columns_of(view).bytes_per_second.values[:, :-1]

    def lessons(self) -> object:
        """Return all that was learned, as plain data that JSON can carry."""
        return msgspec.to_builtins(self._learned())

    def take_up(self, lessons: object) -> None:
        """Know what another instance's `lessons` said, and nothing else."""
        known = msgspec.convert(lessons, dict[str, Learned])
        self._channel, self._attach = known["channel"], known["attach"]
        self._worker, self._bind = known["worker"], known["bind"]
        self._prefill = known["prefill"]
        self._columns = None

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
        if measurement.bytes_read:
            if measurement.teaches_disk and measurement.channel and seconds > 0.0:
                self._learn_channel(measurement.channel, measurement.bytes_read / seconds)
        elif not measurement.link:
            known = self._columns
            if self._attach.observe(measurement.node, seconds) and known:
                known.attach_seconds.learn(measurement.node)
        else:
            # What the estimate adds for attaching is no part of what the link takes.
            attaching = self._attach.get(measurement.node).p50
            crossing = seconds - attaching if seconds > attaching else seconds
            if crossing > 0.0:
                self._learn_channel(measurement.link, measurement.size_bytes / crossing)

    def _learn_channel(self, channel: str, bytes_per_second: float) -> None:
        known = self._columns
        if self._channel.observe(channel, bytes_per_second) and known:
            known.bytes_per_second.learn(channel)

    def _observe_worker(self, measurement: Measurement, seconds: float) -> None:
        engine, known = measurement.engine, self._columns
        key = _worker_key(engine, measurement.node)
        if self._worker.observe(key, seconds) and known and engine in known.worker_seconds:
            known.worker_seconds[engine].learn(key)

    def _columns_of(self, view: ClusterView) -> _Columns:
        known = self._columns
        if known is None or not known.fit(view):
            known = self._columns = self._compile(view)
        return known

    def _compile(self, view: ClusterView) -> _Columns:
        return _Columns(
            channel_ids=view.channel_ids,
            node_ids=view.node_ids,
            probed=view.channel_bytes_per_second,
            probed_latency=view.channel_latency_seconds,
            bytes_per_second=LearnedColumn(
                self._channel,
                view.channel_ids,
                bad_case=_P10,
                priors=view.channel_bytes_per_second.tolist(),
                without_key=np.inf,
            ),
            latency_seconds=np.append(view.channel_latency_seconds, 0.0),
            attach_seconds=LearnedColumn(self._attach, view.node_ids, bad_case=_P90),
            worker_seconds={},
        )

    def _worker_seconds(
        self, known: _Columns, view: ClusterView, models: IntArray, nodes: IntArray
    ) -> FloatArray:
        engines = view.model_engine[models]
        seconds = np.empty((len(Quantile), len(models), len(nodes)))
        for row, engine in enumerate(view.engine_ids[int(engine)] for engine in engines):
            seconds[:, row] = self._workers_of(known, engine).values[:, nodes]
        is_cold = view.warm_workers[np.ix_(engines, nodes)] == 0
        seconds[:, is_cold] += self._priors.cold_worker_seconds
        return seconds

    def _workers_of(self, known: _Columns, engine: str) -> LearnedColumn:
        if engine not in known.worker_seconds:
            keys = [_worker_key(engine, node) for node in known.node_ids]
            known.worker_seconds[engine] = LearnedColumn(self._worker, keys, bad_case=_P90)
        return known.worker_seconds[engine]

    @staticmethod
    def _by_model(learned: Learned, view: ClusterView, models: IntArray) -> FloatArray:
        """Return [quantile, model, 1]."""
        return _quantiles([learned.get(view.model_ids[int(row)]) for row in models])[:, :, None]


def _quantiles(known: list[LogNormal]) -> FloatArray:
    return np.array([[item.p50 for item in known], [item.p90 for item in known]])


def _worker_key(engine: str, node: str) -> str:
    return f"{engine}@{node}"
