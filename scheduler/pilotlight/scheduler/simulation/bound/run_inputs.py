"""A run's arrivals, models and machines as the bound sees them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Sequence

import numpy as np

from pilotlight.scheduler.core.model import Model
from pilotlight.scheduler.simulation.arrivals import Arrival
from pilotlight.scheduler.simulation.bound.errors import BoundInputError
from pilotlight.scheduler.simulation.bound.run_problem import RunProblem
from pilotlight.scheduler.simulation.noise import least_factor
from pilotlight.scheduler.simulation.virtual_node import Machine
from pilotlight.store_node.protocol import ModelId


def run_problem(
    arrivals: Iterable[Arrival],
    models: Sequence[Model],
    machines: Sequence[Machine],
    *,
    in_dram: Collection[ModelId] = (),
) -> RunProblem:
    """Return what the bound needs to know of a simulated run.

    Every figure is the least over the machines that hold the model and have enough
    devices, and the least that noise can make of it. Models `in_dram` are in memory
    somewhere before they are asked for. The machines keep their bandwidth or lose
    some; should one get faster on the way, the bound does not hold.

    Raises:
        BoundInputError: a request names another model, or one that fits nowhere; or
            the requests are not in the order of arrival.
    """
    requests = list(arrivals)
    rows = {model.name: row for row, model in enumerate(models)}
    unknown = {request.model for request in requests} - rows.keys()
    if unknown:
        raise BoundInputError(f"there is no model {min(unknown)}")
    asked = {rows[request.model] for request in requests}
    hosts = [_hosts(model, machines) if row in asked else [] for row, model in enumerate(models)]
    starts = [_start_seconds(model, on) for model, on in zip(models, hosts, strict=True)]
    counts = Counter(model.reference for model in models)
    is_near = [counts[model.reference] > 1 or model.name in in_dram for model in models]
    prefill = [_prefill_seconds(request, hosts[rows[request.model]]) for request in requests]
    decode = [_decode_seconds(request, hosts[rows[request.model]]) for request in requests]
    return RunProblem(
        arrived_at=np.array([request.at for request in requests], np.float64),
        model=np.array([rows[request.model] for request in requests], np.int64),
        prefill_seconds=np.array(prefill, np.float64),
        hold_seconds=np.array(prefill, np.float64) + np.array(decode, np.float64),
        model_devices=np.array([model.devices for model in models], np.int64),
        model_concurrency=np.array(
            [_concurrency(model, on) for model, on in zip(models, hosts, strict=True)], np.int64
        ),
        # Another model of the same checkpoint may have brought its bytes into memory.
        first_start_seconds=np.array(
            [nxt if near else first for (first, nxt), near in zip(starts, is_near, strict=True)]
        ),
        next_start_seconds=np.array([nxt for _, nxt in starts]),
        is_kept=np.array([model.min_replicas > 0 for model in models], np.bool_),
        n_devices=sum(machine.devices for machine in machines),
    )


def _hosts(model: Model, machines: Sequence[Machine]) -> list[Machine]:
    """Return the machines that can run a model; they hold it and have enough devices."""
    found = [
        machine
        for machine in machines
        if machine.devices >= model.devices
        and any(copy.reference == model.reference for copy in machine.copies)
    ]
    if not found:
        raise BoundInputError(f"no machine with {model.devices} devices holds {model.name}")
    return found


def _start_seconds(model: Model, hosts: Sequence[Machine]) -> tuple[float, float]:
    """Return what a start takes at least from disk and from memory; 0 for who is never asked for.

    The worker gets ready beside the transfer, and so, at best, does a copy over a link.
    """
    first = [_start_on(model, machine, from_disk=True) for machine in hosts]
    later = [_start_on(model, machine, from_disk=False) for machine in hosts]
    fastest = min(later, default=0.0)
    return max(min(first, default=0.0), fastest), fastest


def _start_on(model: Model, machine: Machine, *, from_disk: bool) -> float:
    times = machine.times
    part = model.size_bytes / model.devices
    transfers = [part / link.bytes_per_second for link in machine.links if link.bytes_per_second]
    # The fastest link counts: which devices it gets is anybody's guess.
    transfer = min(transfers, default=0.0)
    if from_disk:
        transfer = max(transfer, _read_seconds(model, machine))
    transfer *= least_factor(times.node_spread) * least_factor(times.transfer_noise)
    worker = least_factor(times.noise)
    return max(transfer, worker * times.warm_worker_seconds) + worker * times.bind_seconds


def _read_seconds(model: Model, machine: Machine) -> float:
    """Return how long the fastest disk that holds a model reads it at least."""
    disks = {copy.ssd_channel for copy in machine.copies if copy.reference == model.reference}
    paces = [
        min(channel.bytes_per_second for channel in machine.disks[disk])
        for disk in sorted(disks)
        if disk in machine.disks
    ]
    fastest = max(paces, default=0.0)
    return model.size_bytes / fastest if fastest > 0.0 else 0.0


def _concurrency(model: Model, hosts: Sequence[Machine]) -> int:
    most = max((machine.concurrency for machine in hosts), default=1)
    return min(model.concurrency, most) if model.concurrency else most


def _prefill_seconds(request: Arrival, hosts: Sequence[Machine]) -> float:
    return min(
        least_factor(machine.times.noise)
        * machine.serve_times(request.model).prefill_seconds(request.prompt_tokens)
        for machine in hosts
    )


def _decode_seconds(request: Arrival, hosts: Sequence[Machine]) -> float:
    if request.serve_seconds is not None:
        return request.serve_seconds
    return (request.output_tokens - 1) * min(
        min(machine.serve_times(request.model).token_seconds(batch) for batch in _batches(machine))
        for machine in hosts
    )


def _batches(machine: Machine) -> range:
    return range(1, machine.concurrency + 1)
