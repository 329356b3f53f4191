"""A cluster of virtual nodes that answers the same core, on a virtual clock."""

from __future__ import annotations

from pilotlight.scheduler.simulation.simulation import Arrival, Served, Simulation
from pilotlight.scheduler.simulation.virtual_node import VirtualNode

__all__ = ["Arrival", "Served", "Simulation", "VirtualNode"]
