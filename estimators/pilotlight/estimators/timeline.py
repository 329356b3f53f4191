"""The one evaluator: what a plan costs, contention included.

Theory of operation. A disk serves one load at a time, in the order in which
starts were added, so it is a queue with a time at which it is free (paper
section 5.1: sequential loading; two equal loads in turn end at T and 2T, shared
both end at 2T). A start waits for devices first: its load begins when they are
its own. Loads in flight occupy their channel with what they have left. A
timeline is cheap to fork: arrays are copied when one of two forks writes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pilotlight.estimators.start_times import Forecast, StartTimes
from pilotlight.estimators.view import ClusterView, FloatArray, Residency

TEARDOWN_SECONDS = 0.1
"""From a stop command to free devices, before any was measured."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StartFinish:
    """One start on the timeline, in seconds from the view's `now`; phases are exclusive."""

    queue_seconds: float
    """Waiting for devices, then for the disk behind other loads."""
    transfer_seconds: float
    worker_seconds: float
    """What is left to wait for the worker after the transfer."""
    bind_seconds: float
    prefill_seconds: float

    @property
    def ready_seconds(self) -> float:
        """Until the replica takes requests."""
        return self.queue_seconds + self.transfer_seconds + self.worker_seconds + self.bind_seconds

    @property
    def first_token_seconds(self) -> float:
        """Until the first waiting request has its first token."""
        return self.ready_seconds + self.prefill_seconds


NEVER = StartFinish(
    queue_seconds=float("inf"),
    transfer_seconds=0.0,
    worker_seconds=0.0,
    bind_seconds=0.0,
    prefill_seconds=0.0,
)


class Timeline:
    """What happens when, should the steps added so far be carried out."""

    def __init__(self, view: ClusterView, forecast: Forecast) -> None:
        self._view = view
        self._forecast = forecast
        self._columns: dict[int, StartTimes] = {}
        self._all_nodes = np.arange(len(view.node_ids))
        # The last entry belongs to copies without a channel, which is -1: it is always free.
        self._disk_free = np.zeros(len(view.channel_ids) + 1)
        self._devices = view.node_devices_free.astype(np.int64)
        self._freed: dict[int, list[tuple[float, int]]] = {}
        self._in_dram: dict[tuple[int, int], float] = {}
        self._owns_arrays = True
        self._add_loads_in_flight()

    def fork(self) -> Timeline:
        """Return a timeline that goes its own way from here."""
        twin = object.__new__(Timeline)
        twin._view, twin._forecast = self._view, self._forecast
        twin._columns, twin._all_nodes = self._columns, self._all_nodes
        twin._disk_free, twin._devices = self._disk_free, self._devices
        twin._freed = {node: list(freed) for node, freed in self._freed.items()}
        twin._in_dram = dict(self._in_dram)
        self._owns_arrays = twin._owns_arrays = False
        return twin

    def first_token_seconds(self, model: int) -> FloatArray:
        """Return [N]: when a start of `model` added now would give its first token.

        Infinite where the node holds no copy, or will not have the devices.
        """
        times = self._times(model)
        queue = np.where(self._devices >= self._view.model_devices[model], 0.0, np.inf)
        for node in self._freed:
            queue[node] = self._device_wait(node, model)
        transfer, worker, bind, prefill = times.seconds[0, :, 0]
        transfer, behind = transfer.copy(), self._disk_wait(queue, model)
        for (loading, node), ready in self._in_dram.items():
            if loading == model and np.isfinite(transfer[node]):
                transfer[node], behind[node] = max(ready - queue[node], 0.0), 0.0
        total: FloatArray = queue + np.maximum(behind + transfer, worker) + bind + prefill
        return total

    def add_start(self, model: int, node: int) -> StartFinish:
        """Take devices and the disk for a start; return how it goes."""
        self._own()
        times = self._times(model)
        devices_at = self._device_wait(node, model)
        if not np.isfinite(devices_at) or not np.isfinite(times.seconds[0, 0, 0, node]):
            return NEVER
        self._take_devices(node, int(self._view.model_devices[model]))
        transfer, worker, bind, prefill = times.seconds[0, :, 0, node].tolist()
        disk_wait, transfer = self._take_disk(model, node, devices_at, transfer)
        return StartFinish(
            queue_seconds=devices_at + disk_wait,
            transfer_seconds=transfer,
            worker_seconds=max(0.0, worker - disk_wait - transfer),
            bind_seconds=bind,
            prefill_seconds=prefill,
        )

    def add_stop(self, replica: int) -> float:
        """Give a replica's devices back; return when they are free, in seconds."""
        self._own()
        node = int(self._view.replica_node[replica])
        devices = int(self._view.replica_devices[replica])
        self._freed.setdefault(node, []).append((TEARDOWN_SECONDS, devices))
        return TEARDOWN_SECONDS

    def add_fetch(self, model: int, node: int) -> float:
        """Bring a checkpoint into DRAM; return when it is there, in seconds."""
        self._own()
        wait, transfer = self._take_disk(
            model, node, 0.0, float(self._times(model).seconds[0, 0, 0, node])
        )
        return wait + transfer

    def devices_free(self, node: int) -> int:
        """Return how many devices of a node are free, or will be by an added stop."""
        return int(self._devices[node]) + sum(n for _, n in self._freed.get(node, ()))

    def devices_free_now(self, node: int) -> int:
        """Return how many devices of a node a start need not wait for; negative if too few."""
        return int(self._devices[node])

    def _times(self, model: int) -> StartTimes:
        if model not in self._columns:
            rows = np.array([model])
            self._columns[model] = self._forecast.start_times(self._view, rows, self._all_nodes)
        return self._columns[model]

    def _device_wait(self, node: int, model: int) -> float:
        short = int(self._view.model_devices[model]) - int(self._devices[node])
        if short <= 0:
            return 0.0
        for at, devices in sorted(self._freed.get(node, ())):
            short -= devices
            if short <= 0:
                return at
        return float("inf")

    def _take_devices(self, node: int, devices: int) -> None:
        """Take what is free, then what is freed first."""
        self._devices[node] -= devices
        while self._devices[node] < 0:
            at, freed = min(self._freed[node])
            used = min(freed, -int(self._devices[node]))
            self._devices[node] += used
            self._freed[node].remove((at, freed))
            if freed > used:
                self._freed[node].append((at, freed - used))

    def _disk_wait(self, queue: FloatArray, model: int) -> FloatArray:
        free_at = self._disk_free[self._view.copy_channel[model]]
        reads = self._times(model).disk_seconds[0, 0] > 0.0
        return np.where(reads, np.maximum(free_at - queue, 0.0), 0.0)

    def _take_disk(
        self, model: int, node: int, begin: float, transfer: float
    ) -> tuple[float, float]:
        """Return how long the load waits for its disk and how long it then takes."""
        shared = self._in_dram.get((model, node))
        if shared is not None:
            return 0.0, max(shared - begin, 0.0)
        busy = float(self._times(model).disk_seconds[0, 0, node])
        if busy == 0.0:
            return 0.0, transfer
        channel = int(self._view.copy_channel[model, node])
        wait = max(float(self._disk_free[channel]) - begin, 0.0)
        self._disk_free[channel] = begin + wait + busy
        self._in_dram[model, node] = begin + wait + transfer
        return wait, transfer

    def _add_loads_in_flight(self) -> None:
        view = self._view
        bandwidth = self._forecast.bytes_per_second(view)[0]
        for model, node, channel, left in zip(
            view.load_model.tolist(),
            view.load_node.tolist(),
            view.load_channel.tolist(),
            view.load_left_bytes.tolist(),
            strict=True,
        ):
            if channel < 0:
                continue
            self._disk_free[channel] += left / bandwidth[channel]
            if model >= 0 and not view.residency[model, node] & Residency.DRAM:
                self._in_dram[model, node] = float(self._disk_free[channel])

    def _own(self) -> None:
        if not self._owns_arrays:
            self._disk_free = self._disk_free.copy()
            self._devices = self._devices.copy()
            self._owns_arrays = True
