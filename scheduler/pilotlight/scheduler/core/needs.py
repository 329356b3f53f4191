"""Which models lack replicas and which have some to spare, and whether that calls for a plan.

Theory of operation. A new plan may differ from the standing one where a model
lacks more replicas than it did, where more of its starts are superfluous, and
where capacity came free on a node that holds a model which lacks some. All of it
is a function of the state, kept for each model so that an event costs only what
it touches.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable

from pilotlight.scheduler.core.index import StateIndex
from pilotlight.scheduler.core.shortage import replicas_lacking, replicas_to_spare
from pilotlight.scheduler.core.state import ClusterState, Node
from pilotlight.store_node.protocol import CheckpointStatus, ModelId


class Change(enum.Flag):
    """What has become more, of one model."""

    NOTHING = 0
    ASKS = enum.auto()
    """It lacks more replicas, or more of its starts are superfluous."""
    SPARES = enum.auto()
    """It could spare more replicas."""


class Needs:
    """What each model lacks and could spare, as of the last `renew`."""

    def __init__(self, state: ClusterState, index: StateIndex) -> None:
        self._state = state
        self._index = index
        self._lacking: dict[ModelId, int] = {}
        self._superfluous: dict[ModelId, int] = {}
        self._spare: dict[ModelId, int] = {}
        for model in state.models:
            self.renew(model)

    @property
    def lacking(self) -> dict[ModelId, int]:
        """The models that lack replicas, and a number that grows with how many; for reading."""
        return self._lacking

    def can_spare(self, model: ModelId) -> bool:
        """Return whether a replica of a model may end; of a deleted one all may."""
        return model in self._spare or model not in self._state.models

    def renew(self, name: ModelId) -> Change:
        """Look at a model as it is now; return what has become more."""
        lacking, superfluous, spare = self._look_at(name)
        is_asked = lacking > self._lacking.get(name, 0)
        is_asked |= superfluous > self._superfluous.get(name, 0)
        spares_more = spare > self._spare.get(name, 0)
        _put(self._lacking, name, lacking)
        _put(self._superfluous, name, superfluous)
        _put(self._spare, name, spare)
        if not is_asked:
            return Change.SPARES if spares_more else Change.NOTHING
        return Change.ASKS | Change.SPARES if spares_more else Change.ASKS

    def is_held_lacking(self, node: Node) -> bool:
        """Return whether a node holds a copy of a model that lacks replicas."""
        return bool(self._lacking) and self.lacks_any(node.checkpoints.values())

    def lacks_any(self, copies: Iterable[CheckpointStatus]) -> bool:
        """Return whether a model that these copies may serve lacks replicas."""
        lacking = self._lacking
        return any(name in lacking for copy in copies for name in self._index.models_of(copy))

    def _look_at(self, name: ModelId) -> tuple[int, int, int]:
        """Return how much a model lacks, how many need not start, and how many it could spare."""
        model = self._state.models.get(name)
        if model is None:
            return 0, 0, 0
        has = self._index.count_of(name)
        demand = self._state.demand.get(name)
        waiting = demand.waiting if demand else 0
        lacking = replicas_lacking(model, has, waiting=waiting)
        if waiting and not has.live:
            # More than a minimum that is not met: where none can start, somebody has to say so.
            lacking += 1
        spare = replicas_to_spare(live=has.live, waiting=waiting, least=model.min_replicas)
        return lacking, max(min(has.starting, spare), 0), max(spare, 0)


def _put(table: dict[ModelId, int], name: ModelId, value: int) -> None:
    if value:
        table[name] = value
    else:
        table.pop(name, None)
