"""A cluster in a few lines, and what a policy makes of it.

case = Case()
case.node(devices=1, holds=["llama-8b"]).expect("llama-8b")
case.node(devices=1)
case.requests("llama-8b", 2)
case.check(policy)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pilotlight.estimators import Estimator, StartEstimator
from pilotlight.scheduler.core.core import Core
from pilotlight.scheduler.core.model import Model
from pilotlight.scheduler.core.plan import DecisionId, Plan, Start
from pilotlight.scheduler.core.snapshot import Snapshot
from pilotlight.scheduler.core.state import BackOff, ClusterState, Demand, Node, Replica
from pilotlight.scheduler.policies import Policy
from pilotlight.scheduler.testing.reports import (
    DISK_BYTES_PER_SECOND,
    ENGINE,
    copy_of,
    disk,
    load_of,
    model_of,
    outcome_of,
    report_of,
)
from pilotlight.store_node.protocol import ModelId, NodeId, ReplicaId, ReplicaState

NOW = 1000.0
"""When a case is looked at, in monotonic seconds."""


@dataclass(slots=True)
class CaseNode:
    """One node of a case."""

    id: NodeId
    expected: list[ModelId] = field(default_factory=list[ModelId])

    def expect(self, *models: str) -> CaseNode:
        """Say that a start of each of these models belongs here."""
        self.expected += map(ModelId, models)
        return self


class Case:
    """Builds the state that a core would have, and shows it to policies.

    Models that were not described are of one gigabyte, one device and one request
    at a time; a node reads one gigabyte per second.
    """

    def __init__(self, *, estimator: Estimator | None = None) -> None:
        self.state = ClusterState()
        self.estimator: Estimator = estimator or StartEstimator()
        self.nodes: list[CaseNode] = []

    def model(self, name: str, **fields: Any) -> Model:
        """Deploy a model; `fields` are those of `Model`."""
        model = model_of(name, **fields)
        self.state.models[model.name] = model
        self.state.model_versions[model.name] = self._next_version()
        for node in self.state.nodes.values():
            held = node.checkpoints.get(model.reference)
            if held is not None:
                copy = copy_of(model, in_dram=bool(held.dram_bytes))
                node.checkpoints[model.reference] = copy
        return model

    def node(
        self,
        name: str = "",
        *,
        devices: int = 1,
        holds: Iterable[str] = (),
        dram: Iterable[str] = (),
        channel: str = "",
        bytes_per_second: float = DISK_BYTES_PER_SECOND,
        engines: Iterable[str] = (ENGINE,),
        warm_workers: Mapping[str, int] | None = None,
        is_up: bool = True,
    ) -> CaseNode:
        """Add a node; `holds` lie on its SSD, `dram` in its memory too."""
        name = name or f"node-{len(self.nodes) + 1}"
        dram = list(dram)
        report = report_of(
            name,
            devices=devices,
            holds=[
                copy_of(self._known(model), in_dram=model in dram)
                for model in dict.fromkeys([*holds, *dram])
            ],
            channels=[disk(channel or f"disk@{name}", bytes_per_second=bytes_per_second)],
            engines=engines,
            warm_workers=warm_workers,
        )
        self.state.nodes[report.node_id] = Node(
            id=report.node_id,
            incarnation=report.incarnation,
            address=report.address,
            is_up=is_up,
            resources=report.resources,
            engines=report.engines,
            package_version="",
            version=self._next_version(),
            heard_at=NOW,
            checkpoints={copy.reference: copy for copy in report.checkpoints},
            channels={each.channel_id: each for each in report.resources.channels},
            warm_workers=dict(report.warm_workers),
        )
        node = CaseNode(report.node_id)
        self.nodes.append(node)
        return node

    def requests(self, model: str, n: int = 1, *, waited_seconds: float = 1.0) -> None:
        """Let requests wait for a model, the oldest for `waited_seconds`."""
        name = self._known(model).name
        self.state.demand[name] = Demand(waiting=n, oldest_arrival=NOW - waited_seconds)

    def replica(
        self,
        model: str,
        node: CaseNode,
        *,
        state: ReplicaState = ReplicaState.READY,
        idle_seconds: float | None = None,
        is_stopping: bool = False,
        concurrency: int = 1,
    ) -> ReplicaId:
        """Let a replica run on a node: busy, unless it has been idle for `idle_seconds`."""
        known = self._known(model)
        replica = Replica(
            id=ReplicaId(f"replica-{len(self.state.replicas) + 1}"),
            model=known.name,
            node=node.id,
            devices=known.devices,
            state=state,
            decision=DecisionId("case"),
            since=0.0,
            sent_at=0.0,
            version=self._next_version(),
            concurrency=concurrency,
            running=0 if idle_seconds is not None else 1,
            idle_since=None if idle_seconds is None else NOW - idle_seconds,
            is_stopping=is_stopping,
            outcome=outcome_of() if state is ReplicaState.READY else None,
        )
        self.state.replicas[replica.id] = replica
        return replica.id

    def load(self, model: str, node: CaseNode, *, left_bytes: int) -> None:
        """Let a load of a model's checkpoint be in flight on a node."""
        known = self._known(model)
        status = load_of(
            known.reference,
            done_bytes=known.size_bytes - left_bytes,
            total_bytes=known.size_bytes,
        )
        self.state.nodes[node.id].loads += (status,)

    def failed(
        self,
        model: str,
        node: CaseNode,
        *,
        times: int = 1,
        reason: str = "it broke",
        seconds_left: float = 10.0,
        is_final: bool = False,
    ) -> None:
        """Let starts of a model have failed on a node, and the next one wait."""
        name = self._known(model).name
        self.state.back_offs[f"{name}@{node.id}"] = BackOff(
            model=name,
            node=node.id,
            failures=times,
            until=NOW + seconds_left,
            reason=reason,
            is_final=is_final,
        )

    def core(self) -> Core:
        """Return a core that goes on from here."""
        return Core(estimator=self.estimator, state=self.state)

    def snapshot(self) -> Snapshot:
        """Return what a policy sees."""
        return self.core().snapshot(NOW)

    def plan(self, policy: Policy) -> Plan:
        """Return a policy's plan."""
        return policy.plan(self.snapshot(), self.estimator)

    def check(self, policy: Policy) -> Plan:
        """Return a policy's plan, which starts what is expected where it is expected.

        Raises:
            AssertionError: it does not.
        """
        plan = self.plan(policy)
        starts = [(step.node, step.model) for step in plan.steps if isinstance(step, Start)]
        expected = [(node.id, model) for node in self.nodes for model in node.expected]
        assert sorted(starts) == sorted(expected), f"{starts} is planned, {expected} is right"
        return plan

    def _known(self, name: str) -> Model:
        return self.state.models.get(ModelId(name)) or self.model(name)

    def _next_version(self) -> int:
        self.state.version += 1
        return self.state.version
