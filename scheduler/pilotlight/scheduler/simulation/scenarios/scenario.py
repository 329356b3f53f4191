"""One scenario: a cluster, its models, their requests, and what goes wrong."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import msgspec

from pilotlight.estimators import Priors
from pilotlight.process.plugins import load_plugin
from pilotlight.scheduler.simulation.scenarios.built import Built
from pilotlight.scheduler.simulation.scenarios.cluster import Cluster
from pilotlight.scheduler.simulation.scenarios.failures import Failure
from pilotlight.scheduler.simulation.scenarios.machines import deployed, machines
from pilotlight.scheduler.simulation.scenarios.models import ModelGroup
from pilotlight.scheduler.simulation.scenarios.placement import place
from pilotlight.scheduler.simulation.scenarios.requests import workload
from pilotlight.scheduler.simulation.scenarios.section import (
    Amount,
    Name,
    Number,
    Positive,
    Section,
)
from pilotlight.scheduler.simulation.scenarios.serving import serve_times
from pilotlight.scheduler.simulation.scenarios.trace_folder import TraceFolder
from pilotlight.scheduler.simulation.scenarios.traffic import (
    AzureCalls,
    ClientArrivals,
    FunctionArrivals,
    ReplayArrivals,
    TracedService,
    Traffic,
)
from pilotlight.scheduler.simulation.simulation import Delays
from pilotlight.scheduler.simulation.workload import Workload
from pilotlight.store_node.protocol import ModelId


class ControllerDelays(Section, frozen=True, kw_only=True):
    """What the controller's own work takes, in seconds."""

    plan_seconds: Amount = 0.0
    """From a plan's being asked for until its snapshot is taken."""
    persist_seconds: Amount = 0.001
    command_seconds: Amount = 0.002
    handover_seconds: Amount = 0.0
    """From a request's arrival until it stands in line."""
    detect_seconds: Amount = 1.0
    """Until a node that is gone, or out of reach, is known to be."""
    timeout_seconds: Positive = 300.0
    """That a request waits, at most."""


class PriorConstants(Section, frozen=True, kw_only=True):
    """What the estimator believes before anything was measured."""

    bytes_per_second: Positive = 1.0e9
    """Of a channel that could not be probed."""
    attach_seconds: Positive = 0.002
    warm_worker_seconds: Positive = 0.1
    cold_worker_seconds: Positive = 5.0
    bind_seconds: Positive = 0.05
    prefill_seconds: Positive = 0.1


class Scenario(Section, frozen=True, kw_only=True):
    """What is simulated; its file is laid over the one it is `based_on`, which is not kept."""

    name: Name
    """Its file's, unless that says another; files that are drawn are called after it."""
    title: str
    about: str = ""
    cluster: Cluster
    models: tuple[ModelGroup, ...]
    workload: Traffic
    delays: ControllerDelays = ControllerDelays()
    priors: PriorConstants = PriorConstants()
    failures: tuple[Failure, ...] = ()
    policies: tuple[str, ...] = ("random", "serverlessllm")
    """Those that are compared, where nobody says others."""
    seeds: Number = 5
    """Runs of each policy, where nobody says another number."""
    growth_from: str = ""
    """A smaller scenario that is run, too, to see how the time for each request grows."""

    @property
    def n_nodes(self) -> int:
        """Return how many nodes there are."""
        return sum(group.count for group in self.cluster.nodes)

    @property
    def needs_traces(self) -> bool:
        """Return whether it reads published traces, which are not shipped."""
        if any(group.profile for group in self.models):
            return True
        for part in self.workload.parts:
            arrivals = part.arrivals
            if isinstance(arrivals, FunctionArrivals) and isinstance(arrivals.calls, AzureCalls):
                return True
            if isinstance(arrivals, ClientArrivals | ReplayArrivals):
                return True
            if isinstance(part.service, TracedService):
                return True
        return False

    def build(self, seed: int, *, traces: Path | None = None) -> Built:
        """Return all that one run of it needs, with the requests of that seed.

        `traces` is the folder of published traces; None = what PILOTLIGHT_TRACES names.

        Raises:
            InvalidScenario: a trace that it needs is not there, or it has no requests.
            BrokenTrace: a trace breaks a rule of its format.
            PluginError: its evictor is not installed.
        """
        folder = TraceFolder(traces, source=self.name)
        times = serve_times(self.models, folder, source=self.name)
        requests = workload(self.workload, self.models, seed=seed, traces=folder, source=self.name)
        placed = place(self.cluster, self.models, self._shares(requests, seed))
        made = machines(self.cluster, self.models, placed.on_disk, times.__getitem__)
        return Built(
            seed=seed,
            models=deployed(self.models),
            machines=made.by_node,
            channels=made.channels,
            evictor=load_plugin("pilotlight.evictors", self.cluster.evictor),
            arrivals=requests.arrivals(seed),
            in_dram=placed.in_dram,
            begins_at=self.workload.begins_at_seconds,
            delays=Delays(**msgspec.structs.asdict(self.delays)),
            priors=Priors(**msgspec.structs.asdict(self.priors)),
            failures=self.failures,
        )

    def _shares(self, requests: Workload, seed: int) -> Mapping[ModelId, float]:
        """Return the models' shares of all requests, where copies are placed by them."""
        if any(group.copies.placed == "by_popularity" for group in self.models):
            return requests.shares(seed)
        return {}
