"""All that one run of a scenario needs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from random import Random

from pilotlight.estimators import Priors
from pilotlight.scheduler.core.model import Model
from pilotlight.scheduler.simulation.arrivals import Arrival
from pilotlight.scheduler.simulation.event_heap import EventHeap
from pilotlight.scheduler.simulation.network import Network, VirtualChannel
from pilotlight.scheduler.simulation.scenarios.failures import (
    CutOff,
    Failure,
    NodeLoss,
    SlowChannel,
)
from pilotlight.scheduler.simulation.simulation import Delays, Simulation
from pilotlight.scheduler.simulation.virtual_node import Listener, Machine, VirtualNode
from pilotlight.store_node.core import Evictor
from pilotlight.store_node.protocol import ModelId, NodeId


@dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    """One run's own nodes, channels and requests; another run needs another one."""

    seed: int
    models: Sequence[Model]
    machines: Mapping[NodeId, Machine]
    channels: Mapping[str, VirtualChannel]
    """All, by name: disks, what is shared, and links to devices."""
    evictor: Callable[[], Evictor]
    arrivals: Iterator[Arrival]
    """In the order of time; can be gone through once."""
    in_dram: Sequence[tuple[ModelId, NodeId]]
    """What is wanted in nodes' DRAM before the first request."""
    begins_at: float
    """Seconds until requests may arrive."""
    delays: Delays
    priors: Priors
    failures: Sequence[Failure]

    def nodes(self, heap: EventHeap, network: Network, listener: Listener) -> list[VirtualNode]:
        """Return the nodes; what is noisy about each is drawn from the seed and its name."""
        return [
            VirtualNode(
                node,
                machine,
                heap=heap,
                network=network,
                evictor=self.evictor,
                draw=Random(f"{self.seed}/{node}"),
                listener=listener,
            )
            for node, machine in self.machines.items()
        ]

    def expect_failures(self, simulation: Simulation, network: Network) -> None:
        """Let things go wrong at their times; call it before anything has."""
        for failure in self.failures:
            if isinstance(failure, SlowChannel):
                _expect_slowness(failure, self.channels[failure.channel], simulation.heap, network)
            else:
                simulation.heap.call_at(failure.at_seconds, _fail, (failure, simulation))


def _fail(call: tuple[NodeLoss | CutOff, Simulation]) -> None:
    failure, simulation = call
    if isinstance(failure, NodeLoss):
        simulation.lose_node(NodeId(failure.node), back_after=failure.back_after_seconds)
    else:
        simulation.cut_off(NodeId(failure.node), seconds=failure.seconds)


def _expect_slowness(
    failure: SlowChannel, channel: VirtualChannel, heap: EventHeap, network: Network
) -> None:
    def change(bytes_per_second: float) -> None:
        network.set_bandwidth(channel, bytes_per_second)

    whole = channel.bytes_per_second
    heap.call_at(failure.at_seconds, change, whole * failure.factor)
    if failure.seconds is not None:
        heap.call_at(failure.at_seconds + failure.seconds, change, whole)
