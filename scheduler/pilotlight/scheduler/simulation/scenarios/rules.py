"""What a scenario must be beyond its types: names that exist, models that fit, requests at all."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import NoReturn

from pilotlight.scheduler.simulation.network import Discipline
from pilotlight.scheduler.simulation.scenarios.cluster import Disk, NodeGroup
from pilotlight.scheduler.simulation.scenarios.errors import InvalidScenario
from pilotlight.scheduler.simulation.scenarios.failures import Failure, NodeLoss, SlowChannel
from pilotlight.scheduler.simulation.scenarios.models import ModelGroup
from pilotlight.scheduler.simulation.scenarios.names import (
    channel_names,
    disk_name,
    link_name,
    members,
    model_names,
    node_names,
)
from pilotlight.scheduler.simulation.scenarios.placement import fits, size_bytes
from pilotlight.scheduler.simulation.scenarios.requests import groups_of, shares_of
from pilotlight.scheduler.simulation.scenarios.scenario import Scenario
from pilotlight.scheduler.simulation.scenarios.traffic import (
    ClientArrivals,
    FunctionArrivals,
    GammaArrivals,
    Part,
    ReplayArrivals,
)
from pilotlight.scheduler.simulation.workload import InvalidWorkload

_MOST_NAMES = 8


def check(scenario: Scenario, *, source: str) -> None:
    """Refuse a scenario that can't be built, or that has no requests.

    Raises:
        InvalidScenario: for the first key that breaks a rule.
    """
    rules = _Rules(scenario, source)
    rules.check_cluster()
    rules.check_models()
    rules.check_workload()
    rules.check_failures()
    if not scenario.policies:
        rules.fail("policies", "there are none")


class _Rules:
    def __init__(self, scenario: Scenario, source: str) -> None:
        self._scenario = scenario
        self._source = source
        self._cluster = scenario.cluster
        self._nodes = node_names(scenario.cluster)

    def fail(self, key: str, rule: str, hint: str = "") -> NoReturn:
        raise InvalidScenario(self._source, rule, key=key, hint=hint)

    # -- the cluster

    def check_cluster(self) -> None:
        if not self._nodes:
            self.fail("cluster.nodes", "there are none")
        self._check_unique("cluster.nodes", self._nodes)
        self._check_unique("cluster.channels", [each.name for each in self._cluster.channels])
        for row, group in enumerate(self._cluster.nodes):
            key = f"cluster.nodes[{row}].disks"
            if not group.disks:
                self.fail(key, "there are none, so checkpoints can lie nowhere")
            self._check_unique(key, [disk.channel or disk.name for disk in group.disks])
            for number, disk in enumerate(group.disks):
                self._check_disk(disk, f"{key}[{number}]")

    def _check_disk(self, disk: Disk, key: str) -> None:
        shared = {each.name: each for each in self._cluster.channels}
        if bool(disk.channel) == (disk.bytes_per_second is not None):
            self.fail(key, "a disk has either bytes_per_second or a shared channel")
        if disk.channel:
            self._check_known(f"{key}.channel", disk.channel, shared, "cluster.channels")
        for number, name in enumerate(disk.via):
            place = f"{key}.via[{number}]"
            self._check_known(place, name, shared, "cluster.channels")
            if shared[name].discipline is Discipline.IN_TURN:
                self.fail(place, f"{name!r} serves in turn, which only the disk itself may")
        self._check_unique(f"{key}.via", [disk.channel or disk_name(disk.name, ""), *disk.via])

    # -- the models

    def check_models(self) -> None:
        groups = self._scenario.models
        if not groups:
            self.fail("models", "there are none")
        self._check_unique("models", model_names(groups))
        for row, group in enumerate(groups):
            key = f"models[{row}]"
            if group.min_replicas > group.max_replicas:
                self.fail(f"{key}.min_replicas", "there are more than max_replicas")
            self._check_copies(group, f"{key}.copies")
            self._check_fit(group, key)

    def _check_copies(self, group: ModelGroup, key: str) -> None:
        copies = group.copies
        if bool(copies.nodes) != (copies.placed == "listed"):
            self.fail(f"{key}.nodes", "they are given where copies are `placed: listed`, only then")
        for number, name in enumerate(copies.nodes):
            self._check_known(f"{key}.nodes[{number}]", name, self._nodes, "cluster.nodes")
        self._check_unique(f"{key}.nodes", copies.nodes)

    def _check_fit(self, group: ModelGroup, key: str) -> None:
        holders = [
            node
            for node in self._cluster.nodes
            if group.copies.placed != "listed"
            or set(members(node.name, node.count)) & set(group.copies.nodes)
        ]
        if any(fits(group, node) for node in holders):
            return
        most = max(node.devices for node in holders)
        if group.devices > most:
            self.fail(
                f"{key}.devices",
                f"{group.devices} are needed, and no node that holds it has more than {most}",
            )
        self.fail(
            f"{key}.size_gb",
            f"{size_bytes(group) / 1e9:g} GB are more than {group.devices} of the devices hold on"
            f" any node that holds it: {_largest_gb(group, holders):.1f} GB",
            "give it more devices, or these more memory",
        )

    # -- the workload

    def check_workload(self) -> None:
        traffic = self._scenario.workload
        if traffic.duration_seconds is None and traffic.requests is None:
            parts = [part.arrivals for part in traffic.parts]
            if not all(isinstance(each, ClientArrivals | ReplayArrivals) for each in parts):
                self.fail(
                    "workload", "it never ends", "set duration_seconds, requests, or both of them"
                )
        if not traffic.parts:
            self.fail("workload.parts", "there are none, so there are no requests")
        for row, part in enumerate(traffic.parts):
            self._check_part(part, f"workload.parts[{row}]")

    def _check_part(self, part: Part, key: str) -> None:
        groups = self._scenario.models
        for number, name in enumerate(part.models):
            known = [group.name for group in groups]
            self._check_known(f"{key}.models[{number}]", name, known, "models")
        self._check_unique(f"{key}.models", part.models)
        arrivals = part.arrivals
        if part.service is None and not isinstance(arrivals, ReplayArrivals):
            self.fail(f"{key}.service", "only a trace that is replayed says how long requests are")
        if isinstance(arrivals, GammaArrivals | FunctionArrivals):
            if arrivals.exact and self._scenario.workload.duration_seconds is None:
                self.fail(f"{key}.arrivals.exact", "it needs duration_seconds of the workload")
            if arrivals.exact and self._n_exact(arrivals.requests_per_second) == 0:
                self.fail(f"{key}.arrivals", "there are no requests", "raise requests_per_second")
        if not isinstance(arrivals, FunctionArrivals) and arrivals.popularity is not None:
            n_models = len(model_names(groups_of(part, groups)))
            try:
                shares_of(arrivals.popularity, n_models)
            except InvalidWorkload as exc:
                place = f"{key}.arrivals.popularity.{exc.place}"
                raise InvalidScenario(self._source, exc.rule, key=place, hint=exc.hint) from exc

    def _n_exact(self, requests_per_second: float) -> int:
        return round(requests_per_second * (self._scenario.workload.duration_seconds or 0.0))

    # -- failures

    def check_failures(self) -> None:
        for row, failure in enumerate(self._scenario.failures):
            key = f"failures[{row}]"
            if isinstance(failure, SlowChannel):
                known = list(self._all_channels())
                self._check_known(f"{key}.channel", failure.channel, known, "the cluster")
            else:
                self._check_known(f"{key}.node", failure.node, self._nodes, "cluster.nodes")
        self._check_apart()

    def _check_apart(self) -> None:
        """Refuse what befalls a node or a channel while it is not over something else."""
        over_at: dict[str, float] = {}
        failures = enumerate(self._scenario.failures)
        for row, failure in sorted(failures, key=lambda each: each[1].at_seconds):
            name = failure.channel if isinstance(failure, SlowChannel) else failure.node
            if failure.at_seconds < over_at.get(name, 0.0):
                self.fail(f"failures[{row}]", f"{name} is not over the failure before it by then")
            over_at[name] = failure.at_seconds + self._seconds_of(failure)

    def _seconds_of(self, failure: Failure) -> float:
        if isinstance(failure, NodeLoss):
            back = math.inf if failure.back_after_seconds is None else failure.back_after_seconds
            return max(back, self._scenario.delays.detect_seconds)
        return math.inf if failure.seconds is None else failure.seconds

    def _all_channels(self) -> Iterator[str]:
        for channel in self._cluster.channels:
            yield from channel_names(channel, len(self._nodes))
        for group in self._cluster.nodes:
            for node in members(group.name, group.count):
                yield from (disk_name(each.name, node) for each in group.disks if not each.channel)
                if group.device_bytes_per_second is not None:
                    yield from (link_name(number, node) for number in range(group.devices))

    # -- names

    def _check_known(self, key: str, name: str, known: Iterable[str], where: str) -> None:
        names = list(known)
        if name not in names:
            shown = ", ".join(names[:_MOST_NAMES]) + (", …" if len(names) > _MOST_NAMES else "")
            self.fail(key, f"there is no {name!r} in {where}", f"there are: {shown or 'none'}")

    def _check_unique(self, key: str, names: Sequence[str]) -> None:
        if len(set(names)) < len(names):
            twice = next(name for row, name in enumerate(names) if name in names[:row])
            self.fail(key, f"{twice!r} is there twice")


def _largest_gb(group: ModelGroup, holders: Iterable[NodeGroup]) -> float:
    able = [node for node in holders if node.devices >= group.devices]
    return max(chain((node.device_gib for node in able), (0.0,))) * group.devices * 2**30 / 1e9
