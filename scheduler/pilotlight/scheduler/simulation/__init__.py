"""A cluster of virtual nodes that answers the same core, on a virtual clock."""

from __future__ import annotations

from pilotlight.scheduler.simulation.arrivals import Arrival
from pilotlight.scheduler.simulation.event_heap import EventHeap
from pilotlight.scheduler.simulation.ledger import Ending, Ledger
from pilotlight.scheduler.simulation.network import Discipline, Network, VirtualChannel
from pilotlight.scheduler.simulation.serve_times import LinearTimes, MeasuredTimes, ServeTimes
from pilotlight.scheduler.simulation.simulation import Delays, Simulation
from pilotlight.scheduler.simulation.virtual_node import Machine, NodeTimes, VirtualNode

__all__ = [
    "Arrival",
    "Delays",
    "Discipline",
    "Ending",
    "EventHeap",
    "Ledger",
    "LinearTimes",
    "Machine",
    "MeasuredTimes",
    "Network",
    "NodeTimes",
    "ServeTimes",
    "Simulation",
    "VirtualChannel",
    "VirtualNode",
]
