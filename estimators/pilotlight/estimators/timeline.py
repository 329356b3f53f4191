"""The one evaluator: what a plan costs, contention included.

Theory of operation. A disk serves one load at a time, in the order in which
starts were added, so it is a queue with a time at which it is free (paper
section 5.1: sequential loading; two equal loads in turn end at T and 2T, shared
both end at 2T). A start waits for devices first: its load begins when they are
its own. Loads in flight occupy their channel with what they have left. A
timeline is cheap to fork: arrays are copied when one of two forks writes. A model
is looked at on the nodes that hold a copy only, however many others there are.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from pilotlight.estimators.start_times import Forecast
from pilotlight.estimators.view import ClusterView, FloatArray, IntArray, Residency

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


@dataclass(frozen=True, slots=True, kw_only=True)
class _Holders:
    """The nodes that hold one model, and what its start takes there: columns of equal length."""

    nodes: IntArray
    """In rising order."""
    transfer: FloatArray
    worker: FloatArray
    bind: FloatArray
    prefill: FloatArray
    disk: FloatArray
    """How long the disk is busy."""
    channel: IntArray

    def row_of(self, node: int) -> int | None:
        """Return a node's row; None where it holds no copy."""
        row = int(self.nodes.searchsorted(node))
        return row if row < len(self.nodes) and self.nodes[row] == node else None

    def row_at(self, node: int) -> int:
        """Return the row of a node that is known to hold a copy."""
        return int(self.nodes.searchsorted(node))


class Timeline:
    """What happens when, should the steps added so far be carried out."""

    def __init__(self, view: ClusterView, forecast: Forecast) -> None:
        self._view = view
        self._forecast = forecast
        self._holders: dict[int, _Holders] = {}
        # The last entry belongs to copies without a channel, which is -1: it is always free.
        self._disk_free = np.zeros(len(view.channel_ids) + 1)
        self._devices = view.node_devices_free.astype(np.int64)
        self._freed: dict[int, list[tuple[float, int]]] = {}
        self._in_dram: dict[int, dict[int, float]] = {}
        """By model and node: when a load that is under way, or was added, ends."""
        self._owns_arrays = True
        self._add_loads_in_flight()

    def fork(self) -> Timeline:
        """Return a timeline that goes its own way from here."""
        twin = object.__new__(Timeline)
        twin._view, twin._forecast = self._view, self._forecast
        twin._holders = self._holders
        twin._disk_free, twin._devices = self._disk_free, self._devices
        twin._freed = {node: list(freed) for node, freed in self._freed.items()}
        twin._in_dram = {model: dict(ready) for model, ready in self._in_dram.items()}
        self._owns_arrays = twin._owns_arrays = False
        return twin

    def first_token_seconds(self, model: int) -> FloatArray:
        """Return [N]: when a start of `model` added now would give its first token.

        Infinite where the node holds no copy, or will not have the devices.
        """
        here = self._held(model)
        queue = np.where(self._devices[here.nodes] >= self._view.model_devices[model], 0.0, np.inf)
        for node, freed in self._freed.items():
            row = here.row_of(node)
            if row is not None:
                queue[row] = self._device_wait(node, model, freed)
        return self._first_token_after(queue, model)

    def least_first_token_seconds(self, model: int) -> FloatArray:
        """Return [N]: the same, had every node that holds a copy the devices at once.

        No start there takes less, whatever is stopped for it.
        """
        return self._first_token_after(np.zeros(len(self._held(model).nodes)), model)

    def _first_token_after(self, queue: FloatArray, model: int) -> FloatArray:
        here = self._held(model)
        free_at = np.maximum(self._disk_free[here.channel] - queue, 0.0)
        transfer, behind = here.transfer, np.where(here.disk > 0.0, free_at, 0.0)
        if model in self._in_dram:
            transfer = transfer.copy()
            for node, ready in self._in_dram[model].items():
                row = here.row_of(node)
                if row is not None and np.isfinite(transfer[row]):
                    transfer[row], behind[row] = max(ready - queue[row], 0.0), 0.0
        total: FloatArray = np.full(len(self._view.node_ids), np.inf)
        total[here.nodes] = (
            queue + np.maximum(behind + transfer, here.worker) + here.bind + here.prefill
        )
        return total

    def start_after_stops(self, model: int, node: int, replicas: Iterable[int]) -> StartFinish:
        """Return how a start would go if these replicas of its node stopped for it.

        Nothing is added.
        """
        devices = self._view.replica_devices
        stops = [(TEARDOWN_SECONDS, int(devices[replica])) for replica in replicas]
        freed = [*self._freed.get(node, ()), *stops]
        return self._start(model, node, self._device_wait(node, model, freed))

    def add_start(self, model: int, node: int) -> StartFinish:
        """Take devices and the disk for a start; return how it goes."""
        self._own()
        begin = self._device_wait(node, model, self._freed.get(node, ()))
        finish = self._start(model, node, begin)
        if finish is not NEVER:
            self._take_devices(node, int(self._view.model_devices[model]))
            self._take_disk(model, node, begin)
        return finish

    def add_stop(self, replica: int) -> float:
        """Give a replica's devices back; return when they are free, in seconds."""
        self._own()
        node = int(self._view.replica_node[replica])
        devices = int(self._view.replica_devices[replica])
        self._freed.setdefault(node, []).append((TEARDOWN_SECONDS, devices))
        return TEARDOWN_SECONDS

    def add_fetch(self, model: int, node: int) -> float:
        """Bring a checkpoint into DRAM; return when it is there, in seconds.

        Infinite where the node holds no copy.
        """
        if self._held(model).row_of(node) is None:
            return float("inf")
        self._own()
        wait, transfer = self._take_disk(model, node, 0.0)
        return wait + transfer

    def devices_free(self, node: int) -> int:
        """Return how many devices of a node are free, or will be by an added stop."""
        return int(self._devices[node]) + sum(n for _, n in self._freed.get(node, ()))

    def devices_free_now(self, node: int) -> int:
        """Return how many devices of a node a start need not wait for; negative if too few."""
        return int(self._devices[node])

    def _held(self, model: int) -> _Holders:
        if model not in self._holders:
            self._holders[model] = self._look_up(model)
        return self._holders[model]

    def _look_up(self, model: int) -> _Holders:
        nodes = np.flatnonzero(self._view.residency[model])
        times = self._forecast.start_times(self._view, np.array([model]), nodes)
        transfer, worker, bind, prefill = times.seconds[0, :, 0]
        return _Holders(
            nodes=nodes,
            transfer=transfer,
            worker=worker,
            bind=bind,
            prefill=prefill,
            disk=times.disk_seconds[0, 0],
            channel=self._view.copy_channel[model, nodes],
        )

    def _start(self, model: int, node: int, begin: float) -> StartFinish:
        """Return how a start goes that has its devices at `begin`."""
        here = self._held(model)
        row = here.row_of(node)
        if row is None or not np.isfinite(begin) or not np.isfinite(here.transfer[row]):
            return NEVER
        wait, transfer = self._disk_times(model, node, begin)
        worker = float(here.worker[row])
        return StartFinish(
            queue_seconds=begin + wait,
            transfer_seconds=transfer,
            worker_seconds=max(0.0, worker - wait - transfer),
            bind_seconds=float(here.bind[row]),
            prefill_seconds=float(here.prefill[row]),
        )

    def _device_wait(self, node: int, model: int, freed: Sequence[tuple[float, int]]) -> float:
        short = int(self._view.model_devices[model]) - int(self._devices[node])
        if short <= 0:
            return 0.0
        for at, devices in sorted(freed):
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

    def _disk_times(self, model: int, node: int, begin: float) -> tuple[float, float]:
        """Return how long a load on a holder waits for its disk and how long it then takes."""
        shared = self._in_dram.get(model, {}).get(node)
        if shared is not None:
            return 0.0, max(shared - begin, 0.0)
        here = self._held(model)
        row = here.row_at(node)
        transfer = float(here.transfer[row])
        if here.disk[row] == 0.0:
            return 0.0, transfer
        return max(float(self._disk_free[here.channel[row]]) - begin, 0.0), transfer

    def _take_disk(self, model: int, node: int, begin: float) -> tuple[float, float]:
        """Return the same as `_disk_times`, and let the disk be busy with it."""
        here = self._held(model)
        row = here.row_at(node)
        wait, transfer = self._disk_times(model, node, begin)
        busy = float(here.disk[row])
        if busy != 0.0 and node not in self._in_dram.get(model, {}):
            self._disk_free[here.channel[row]] = begin + wait + busy
            self._in_dram.setdefault(model, {})[node] = begin + wait + transfer
        return wait, transfer

    def _add_loads_in_flight(self) -> None:
        view = self._view
        loads = np.flatnonzero(view.load_channel >= 0)
        if not loads.size:
            return
        models, nodes, channels = (
            column[loads] for column in (view.load_model, view.load_node, view.load_channel)
        )
        left = view.load_left_bytes[loads] / self._forecast.bytes_per_second(view)[0, channels]
        is_wanted = models >= 0
        is_wanted[is_wanted] = (
            view.residency[models[is_wanted], nodes[is_wanted]] & int(Residency.DRAM)
        ) == 0
        free: dict[int, float] = {}
        for model, node, channel, seconds, waits in zip(
            models.tolist(),
            nodes.tolist(),
            channels.tolist(),
            left.tolist(),
            is_wanted.tolist(),
            strict=True,
        ):
            free[channel] = free.get(channel, 0.0) + seconds
            if waits:
                self._in_dram.setdefault(model, {})[node] = free[channel]
        self._disk_free[list(free)] = list(free.values())

    def _own(self) -> None:
        if not self._owns_arrays:
            self._disk_free = self._disk_free.copy()
            self._devices = self._devices.copy()
            self._owns_arrays = True
