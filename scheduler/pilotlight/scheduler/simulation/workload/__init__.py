"""Workloads: requests in the order of time, drawn from a seed or read from traces.

All of it streams: neither a trace nor a workload ever lies in memory. Equal
seeds give equal requests; `Seeds` says which stream draws what.
"""

from __future__ import annotations

from pilotlight.scheduler.simulation.workload.clients import ClientSource
from pilotlight.scheduler.simulation.workload.counts import draw_counts, read_counts
from pilotlight.scheduler.simulation.workload.errors import InvalidWorkload
from pilotlight.scheduler.simulation.workload.functions import Bursts, FunctionSource
from pilotlight.scheduler.simulation.workload.popularity import weighted_shares, zipf_shares
from pilotlight.scheduler.simulation.workload.processes import ExactSource, GammaSource
from pilotlight.scheduler.simulation.workload.replay import Replay
from pilotlight.scheduler.simulation.workload.seeds import Draws, Seeds
from pilotlight.scheduler.simulation.workload.service import (
    Distribution,
    DrawnSeconds,
    FixedTokens,
    Service,
    TracedLengths,
    read_lengths,
)
from pilotlight.scheduler.simulation.workload.source import Source
from pilotlight.scheduler.simulation.workload.workload import Part, Workload

__all__ = [
    "Bursts",
    "ClientSource",
    "Distribution",
    "Draws",
    "DrawnSeconds",
    "ExactSource",
    "FixedTokens",
    "FunctionSource",
    "GammaSource",
    "InvalidWorkload",
    "Part",
    "Replay",
    "Seeds",
    "Service",
    "Source",
    "TracedLengths",
    "Workload",
    "draw_counts",
    "read_counts",
    "read_lengths",
    "weighted_shares",
    "zipf_shares",
]
