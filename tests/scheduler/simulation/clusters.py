"""Small virtual clusters: a gigabyte takes a second from disk, whatever else is round."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from pilotlight.estimators import StartEstimator
from pilotlight.scheduler.core.core import Core
from pilotlight.scheduler.core.events import AnyEvent
from pilotlight.scheduler.core.model import Model
from pilotlight.scheduler.policies import Policy
from pilotlight.scheduler.simulation import (
    Arrival,
    Delays,
    EventHeap,
    LinearTimes,
    Machine,
    Network,
    NodeTimes,
    Simulation,
    VirtualChannel,
    VirtualNode,
)
from pilotlight.scheduler.simulation.virtual_node import CHUNK_BYTES, Listener
from pilotlight.store_node.core import CheckpointCopy, LruEvictor
from pilotlight.store_node.protocol import ChannelId, ModelId, NodeId, Reference

GIGABYTE = 10**9
TIMES = NodeTimes(
    warm_worker_seconds=0.1, bind_seconds=0.05, teardown_seconds=0.2, report_seconds=0.001
)
"""A start from disk is READY 0.05 s after its load, one from memory after 0.15 s."""
PREFILL_SECONDS = 0.1
DELAYS = Delays(persist_seconds=0.001, command_seconds=0.002)
DECISION_SECONDS = 0.003
"""From demand until a node has its command."""


def copy_of(name: str, size_bytes: int = GIGABYTE, *, disk: str = "disk") -> CheckpointCopy:
    """Return a copy as `model_of` of the same name names it."""
    return CheckpointCopy(
        reference=Reference(name),
        path=f"/models/{name}",
        identity=f"identity-{name}",
        ssd_channel=ChannelId(disk),
        layout_id=f"layout-{name}",
        size_bytes=size_bytes,
        n_chunks=-(-size_bytes // CHUNK_BYTES),
    )


def machine_of(
    copies: Sequence[CheckpointCopy],
    *,
    devices: int = 2,
    dram_bytes: int = 100 * GIGABYTE,
    disk: VirtualChannel | None = None,
    links: Sequence[VirtualChannel] = (),
    times: NodeTimes = TIMES,
    serve_times: LinearTimes | None = None,
    warm_workers: int = 100,
    concurrency: int = 4,
) -> Machine:
    """Return a node with one disk of 1 GB/s, unless another is given."""
    found = disk or VirtualChannel(name="disk", bytes_per_second=float(GIGABYTE))
    serving = serve_times or LinearTimes(prefill_fixed_seconds=PREFILL_SECONDS)
    return Machine(
        devices=devices,
        device_bytes=100 * GIGABYTE,
        dram_bytes=dram_bytes,
        copies=tuple(copies),
        disks={ChannelId(found.name): (found,)},
        links=tuple(links),
        times=times,
        warm_workers=warm_workers,
        concurrency=concurrency,
        serve_times=lambda model: serving,
    )


def node_of(
    name: str, machine: Machine, *, heap: EventHeap, network: Network, listener: Listener
) -> VirtualNode:
    """Return a node that forgets what was used longest ago."""
    return VirtualNode(
        NodeId(name),
        machine,
        heap=heap,
        network=network,
        evictor=LruEvictor,
        draw=Random(name),
        listener=listener,
    )


class Cluster:
    """Equal nodes that hold all models, and what was recorded of their controller."""

    def __init__(
        self,
        policy: Policy,
        models: Sequence[Model],
        *,
        held: Sequence[Model] | None = None,
        nodes: int = 1,
        devices: int = 1,
        dram_bytes: int = 100 * GIGABYTE,
        delays: Delays = DELAYS,
        serve_times: LinearTimes | None = None,
        times: NodeTimes = TIMES,
        has_links: bool = False,
        concurrency: int = 4,
    ) -> None:
        self.heap = EventHeap()
        self.network = Network(self.heap)
        self.recorded: list[tuple[float, AnyEvent]] = []
        self.simulation = Simulation(
            core=Core(estimator=StartEstimator()),
            policy=policy,
            heap=self.heap,
            delays=delays,
            on_event=lambda now, event: self.recorded.append((now, event)),
        )
        self.channels: list[VirtualChannel] = []
        copies = [
            copy_of(model.name, model.size_bytes) for model in (models if held is None else held)
        ]
        names = [f"node-{row}" for row in range(nodes)]
        self.simulation.begin(
            models,
            [
                self._node(
                    name,
                    copies,
                    devices=devices,
                    dram_bytes=dram_bytes,
                    serve_times=serve_times,
                    times=times,
                    has_links=has_links,
                    concurrency=concurrency,
                )
                for name in names
            ],
        )
        self.requests: list[Arrival] = []
        self.heap.run_until(1.0)

    def request(
        self, model: str, at: float, *, serve_seconds: float | None = 1.0, output_tokens: int = 2
    ) -> None:
        """Let a request arrive, once `run` is called."""
        self.requests.append(
            Arrival(
                at=at,
                model=ModelId(model),
                serve_seconds=serve_seconds,
                output_tokens=output_tokens,
            )
        )

    def run(self, *, limit: float = 1e9) -> Simulation:
        """Run until all requests have ended."""
        self.simulation.feed(sorted(self.requests, key=lambda each: each.at))
        self.simulation.run(limit=limit)
        return self.simulation

    def _node(
        self,
        name: str,
        copies: Sequence[CheckpointCopy],
        *,
        has_links: bool,
        concurrency: int,
        devices: int,
        dram_bytes: int,
        serve_times: LinearTimes | None,
        times: NodeTimes,
    ) -> VirtualNode:
        disk = VirtualChannel(name=f"disk@{name}", bytes_per_second=float(GIGABYTE))
        links = [
            VirtualChannel(name=f"link-{row}@{name}", bytes_per_second=4.0 * GIGABYTE)
            for row in range(devices if has_links else 0)
        ]
        self.channels += [disk, *links]
        machine = machine_of(
            [copy_of(copy.reference, copy.size_bytes, disk=disk.name) for copy in copies],
            devices=devices,
            dram_bytes=dram_bytes,
            disk=disk,
            links=links,
            serve_times=serve_times,
            times=times,
            concurrency=concurrency,
        )
        return node_of(
            name,
            machine,
            heap=self.heap,
            network=self.network,
            listener=self.simulation,
        )
