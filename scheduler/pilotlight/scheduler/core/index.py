"""Finds what belongs together in a state without looking through all of it.

Derived from the state alone, and kept current by whoever changes that: see `Turn`.
"""

from __future__ import annotations

from typing import TypeVar

from pilotlight.scheduler.core.model import Model
from pilotlight.scheduler.core.plan import DecisionId, StepId
from pilotlight.scheduler.core.shortage import ReplicaCount, share_of
from pilotlight.scheduler.core.state import ClusterState, Decision, PlannedStep, Replica
from pilotlight.store_node.protocol import CheckpointStatus, ModelId, NodeId, Reference, ReplicaId

K = TypeVar("K")
L = TypeVar("L")
V = TypeVar("V")

_StepKey = tuple[DecisionId, StepId]


class StateIndex:
    """Replicas by node and model, steps by replica, models by checkpoint.

    Whatever it returns is in the order in which the state came to know it.
    """

    def __init__(self, state: ClusterState) -> None:
        self._places: dict[ReplicaId, int] = {}
        self._next_place = 0
        self._on: dict[NodeId, dict[ReplicaId, Replica]] = {}
        self._of: dict[ModelId, dict[ReplicaId, Replica]] = {}
        self._shares: dict[ReplicaId, ReplicaCount] = {}
        self._counts: dict[ModelId, _Count] = {}
        self._steps: dict[ReplicaId, dict[_StepKey, tuple[Decision, PlannedStep]]] = {}
        self._models: dict[ModelId, Model] = {}
        self._by_reference: dict[Reference, dict[ModelId, None]] = {}
        self._by_content: dict[str, dict[ModelId, None]] = {}
        self._deployments: dict[ModelId, str] = {}
        for model in state.models.values():
            self.add_model(model)
        for replica in state.replicas.values():
            self.add_replica(replica)
        for decision in state.decisions.values():
            for step in decision.steps.values():
                self.add_step(decision, step)

    # Replicas.

    def add_replica(self, replica: Replica) -> None:
        """Know a replica that is new in the state."""
        self._places[replica.id] = self._next_place
        self._next_place += 1
        self._on.setdefault(replica.node, {})[replica.id] = replica
        self._of.setdefault(replica.model, {})[replica.id] = replica
        self.count_replica(replica)

    def forget_replica(self, replica: Replica) -> None:
        """Know no more of a replica that has left the state."""
        if self._places.pop(replica.id, None) is None:
            return
        _remove(self._on, replica.node, replica.id)
        _remove(self._of, replica.model, replica.id)
        self._uncount(replica)

    def count_replica(self, replica: Replica) -> None:
        """Count a replica of the state as it is now."""
        self._uncount(replica)
        if replica.id in self._places:
            share = self._shares[replica.id] = share_of(replica)
            self._counts.setdefault(replica.model, _Count()).add(share, 1)

    def count_of(self, model: ModelId) -> ReplicaCount:
        """Return what a model has, of what was counted."""
        count = self._counts.get(model)
        return count.total() if count else _NONE

    def place_of(self, replica: ReplicaId) -> int:
        """Return a number that is higher for replicas which came later."""
        return self._places[replica]

    def replicas_on(self, node: NodeId) -> list[Replica]:
        """Return a node's replicas."""
        return list(self._on.get(node, {}).values())

    def replicas_of(self, model: ModelId) -> list[Replica]:
        """Return a model's replicas, also those of one that is deleted."""
        return list(self._of.get(model, {}).values())

    # Steps.

    def add_step(self, decision: Decision, step: PlannedStep) -> None:
        """Know a step that makes or ends a replica; others are passed over."""
        if step.replica is not None:
            steps = self._steps.setdefault(step.replica, {})
            steps[decision.id, step.step.id] = decision, step

    def forget_step(self, decision: Decision, step: PlannedStep) -> None:
        """Know no more that a step names its replica."""
        if step.replica is not None:
            _remove(self._steps, step.replica, (decision.id, step.step.id))

    def forget_decision(self, decision: Decision) -> None:
        """Know no more of a decision's steps."""
        for step in decision.steps.values():
            self.forget_step(decision, step)

    def steps_of(self, replica: ReplicaId) -> list[tuple[Decision, PlannedStep]]:
        """Return the steps of standing decisions that name a replica."""
        return list(self._steps.get(replica, {}).values())

    # Models.

    def add_model(self, model: Model) -> None:
        """Know a model, new or changed."""
        self.forget_model(model.name)
        self._models[model.name] = model
        self._by_reference.setdefault(model.reference, {})[model.name] = None
        if model.content_id:
            self._by_content.setdefault(model.content_id, {})[model.name] = None

    def forget_model(self, name: ModelId) -> None:
        """Know no more of a model."""
        self._deployments.pop(name, None)
        model = self._models.pop(name, None)
        if model is None:
            return
        _remove(self._by_reference, model.reference, name)
        if model.content_id:
            _remove(self._by_content, model.content_id, name)

    def models_at(self, reference: Reference) -> list[ModelId]:
        """Return the models that were deployed from a path."""
        return list(self._by_reference.get(reference, ()))

    def models_of(self, copy: CheckpointStatus) -> list[ModelId]:
        """Return the models that a copy may serve: those of its path, and of its content."""
        found = self._by_reference.get(copy.reference, {})
        if copy.content_id and (alike := self._by_content.get(copy.content_id)):
            found = found | alike
        return list(found)

    def deployment_of(self, name: ModelId) -> str:
        """Return `Model.deployment` of a model that is deployed, worked out once."""
        if name not in self._deployments:
            self._deployments[name] = self._models[name].deployment
        return self._deployments[name]

    def _uncount(self, replica: Replica) -> None:
        share = self._shares.pop(replica.id, None)
        if share is None:
            return
        count = self._counts[replica.model]
        count.add(share, -1)
        if replica.model not in self._of:
            del self._counts[replica.model]

    # What it knows, for comparison.

    def contents(self) -> tuple[object, ...]:
        """Return all that it knows but for the numbers of places, which only order."""
        steps = {
            replica: [(key, id(step)) for key, (_, step) in found.items()]
            for replica, found in self._steps.items()
        }
        models = {name: id(model) for name, model in self._models.items()}
        return (
            sorted(self._places, key=self.place_of),
            {node: [*found] for node, found in self._on.items()},
            {model: [*found] for model, found in self._of.items()},
            steps,
            models,
            {reference: {*found} for reference, found in self._by_reference.items()},
            {content: {*found} for content, found in self._by_content.items()},
            {model: self.count_of(model) for model in self._of},
        )


_NONE = ReplicaCount(0, 0, 0, 0)


class _Count:
    """The sum of a model's shares, and of each concurrency how many have it."""

    __slots__ = ("_concurrencies", "_expected", "_live", "_starting")

    def __init__(self) -> None:
        self._live = self._starting = self._expected = 0
        self._concurrencies: dict[int, int] = {}

    def add(self, share: ReplicaCount, times: int) -> None:
        self._live += times * share.live
        self._starting += times * share.starting
        self._expected += times * share.expected
        n = self._concurrencies.get(share.concurrency, 0) + times
        if n:
            self._concurrencies[share.concurrency] = n
        else:
            del self._concurrencies[share.concurrency]

    def total(self) -> ReplicaCount:
        most = max(self._concurrencies, default=0)
        return ReplicaCount(self._live, self._starting, self._expected, most)


def _remove(table: dict[K, dict[L, V]], key: K, inner: L) -> None:
    row = table.get(key, {})
    row.pop(inner, None)
    if not row:
        table.pop(key, None)
