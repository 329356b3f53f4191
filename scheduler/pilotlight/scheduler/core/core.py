"""The scheduler's core: events in, actions out.

Theory of operation. Events change the state; whenever one leaves the standing
plan stale (`planning` says which do) and no plan is being made, the core asks
for one over all demand, on one snapshot. The proposal is taken up step by step
(`commitment`), written down, and carried out once that transaction has committed
(`steps`). The core reads no clock, draws no random number and opens nothing, so
the same events give the same actions: that is what makes its recording a replay.
What an event costs does not grow with the cluster: all that would have to be
looked for is found by an index, and kept current in columns.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pilotlight.estimators import Estimator
from pilotlight.scheduler.core import decree, events, models, nodes, planning, steps, timers
from pilotlight.scheduler.core.actions import AnyAction
from pilotlight.scheduler.core.columns import SnapshotBuilder
from pilotlight.scheduler.core.expiry import IdleExpiries
from pilotlight.scheduler.core.index import StateIndex
from pilotlight.scheduler.core.integrity import check_integrity
from pilotlight.scheduler.core.needs import Needs
from pilotlight.scheduler.core.snapshot import Snapshot
from pilotlight.scheduler.core.state import ClusterState
from pilotlight.scheduler.core.turn import CoreSettings, Turn

_Handler = Callable[[Turn, Any], None]

_HANDLERS: Mapping[type[events.AnyEvent], _Handler] = {
    events.Restored: models.restored,
    events.EpochRaised: models.epoch_raised,
    events.ModelDeployed: models.deployed,
    events.ModelDeleted: models.deleted,
    events.FetchAsked: decree.fetch_asked,
    events.EvictAsked: decree.evict_asked,
    events.NodeJoined: nodes.joined,
    events.NodeUpdated: nodes.updated,
    events.NodeDisconnected: nodes.disconnected,
    events.DemandChanged: planning.demand_changed,
    events.PlanProposed: planning.plan_proposed,
    events.Persisted: planning.persisted,
    events.PersistFailed: planning.persist_failed,
    events.Acked: steps.acked,
    events.Refused: steps.refused,
    events.Lost: steps.lost,
    events.TimerFired: timers.fired,
}


class Core:
    """Owns demand, replicas, reservations and plans. Not thread-safe.

    `state` continues where another core was; it becomes this one's own.
    """

    def __init__(
        self,
        *,
        estimator: Estimator,
        settings: CoreSettings | None = None,
        state: ClusterState | None = None,
    ) -> None:
        self.estimator = estimator
        self._settings = settings or CoreSettings()
        self._state = state or ClusterState()
        self._index = StateIndex(self._state)
        self._columns = SnapshotBuilder(self._state, self._index)
        self._needs = Needs(self._state, self._index)
        self._expiries = IdleExpiries(self._state)

    @property
    def state(self) -> ClusterState:
        """What the core knows; for reading."""
        return self._state

    def handle(self, event: events.AnyEvent, now: float) -> list[AnyAction]:
        """Take one event; return what is to be done, in order.

        `now` is in monotonic seconds and never goes back from one call to the next.
        """
        turn = Turn(
            state=self._state,
            index=self._index,
            columns=self._columns,
            needs=self._needs,
            expiries=self._expiries,
            estimator=self.estimator,
            settings=self._settings,
            now=now,
        )
        _HANDLERS[type(event)](turn, event)
        planning.conclude(turn)
        return turn.actions

    def snapshot(self, now: float) -> Snapshot:
        """Return the cluster as a policy sees it."""
        return self._columns.build(now)

    def check_integrity(self) -> None:
        """Raise AssertionError where the state, or what is derived, contradicts it; for tests."""
        check_integrity(self._state, self._index, self._needs)
