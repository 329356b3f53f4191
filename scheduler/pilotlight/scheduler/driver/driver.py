"""Carries out the core's actions, one for one, and tells it what came of them."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import structlog

from pilotlight.scheduler.core import Core
from pilotlight.scheduler.core.actions import (
    Announce,
    AnyAction,
    AnyChange,
    AnyRouteUpdate,
    Persist,
    Publish,
    RequestPlan,
    Send,
    SetTimer,
    StartFinished,
)
from pilotlight.scheduler.core.events import (
    AnyEvent,
    Persisted,
    PersistFailed,
    PlanProposed,
    TimerFired,
)
from pilotlight.scheduler.driver.change_records import Moment, change_record, start_record
from pilotlight.scheduler.driver.commands import CommandSender
from pilotlight.scheduler.driver.metrics import DriverMetrics
from pilotlight.scheduler.driver.planner import Planner
from pilotlight.scheduler.driver.recorder import Recorder
from pilotlight.scheduler.driver.watchers import Watchers
from pilotlight.scheduler.errors import LeadershipLost, StateUnavailable
from pilotlight.scheduler.store import Change, PutStart, StartRecord, StateStore
from pilotlight.store_node.protocol import ReplicaId
from pilotlight.store_node.protocol.channels import Channels

_REMEMBERED_STARTS = 1000
"""Starts whose first token may still be reported."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Clocks:
    """The two times that a driver needs."""

    monotonic: Callable[[], float]
    wall: Callable[[], float]
    """Seconds since 1970."""


class Driver:
    """The shell around the core; used from one event loop.

    Events are handled one after the other in the order in which they were
    posted, also those that are posted while one is being handled.
    """

    def __init__(
        self,
        core: Core,
        *,
        planner: Planner,
        store: StateStore,
        recorder: Recorder,
        channels: Channels,
        clocks: Clocks,
        tasks: asyncio.TaskGroup,
        metrics: DriverMetrics,
    ) -> None:
        self.core = core
        self.watchers = Watchers()
        self.subscribers: list[Callable[[AnyRouteUpdate], None]] = []
        """Who hears of routes."""
        self._planner = planner
        self._store = store
        self._recorder = recorder
        self._clocks = clocks
        self._tasks = tasks
        self._metrics = metrics
        self._sender = CommandSender(tasks, channels=channels, post=self.post)
        self._inbox: deque[AnyEvent] = deque()
        self._is_handling = False
        self._offset = 0
        """Number of the event that is being handled."""
        self._is_closed = False
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._recent_starts: dict[ReplicaId, StartRecord] = {}

    def post(self, event: AnyEvent) -> None:
        """Give the core an event; after `close` nothing more."""
        self._inbox.append(event)
        if self._is_handling or self._is_closed:
            return
        self._is_handling = True
        try:
            while self._inbox:
                self._handle(self._inbox.popleft())
        finally:
            self._is_handling = False

    def close(self) -> None:
        """Stop: no timer fires any more, no answer is waited for, no event is taken."""
        self._is_closed = True
        self._sender.close()
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()

    def first_token(self, replica: ReplicaId, *, seconds: float) -> None:
        """Remember how long the first request of a replica had waited for its first token."""
        start = self._recent_starts.get(replica)
        if self._is_closed or start is None or start.first_token_seconds is not None:
            return
        start = self._recent_starts[replica] = replace(start, first_token_seconds=seconds)
        self._tasks.create_task(self._write_start(start))

    def _handle(self, event: AnyEvent) -> None:
        now = self._clocks.monotonic()
        self._offset = self._recorder.write(now, event)
        for action in self.core.handle(event, now):
            self._carry_out(action)

    def _carry_out(self, action: AnyAction) -> None:
        match action:
            case RequestPlan():
                # Not at once: events of the same moment belong on the same snapshot.
                self._tasks.create_task(self._plan(action.plan_id))
            case Persist():
                records = [self._record(change) for change in action.changes]
                self._tasks.create_task(self._persist(action.token, records))
            case Send():
                address = self.core.state.nodes[action.node].address
                self._sender.send(action, address=address)
            case SetTimer():
                self._set_timer(action)
            case Announce():
                for tell in self.subscribers:
                    tell(action.update)
            case Publish():
                self._publish(action)

    async def _plan(self, plan_id: int) -> None:
        snapshot = self.core.snapshot(self._clocks.monotonic())
        proposal = self._planner.plan(snapshot, self.core.estimator)
        self.post(
            PlanProposed(
                plan_id=plan_id,
                policy=proposal.policy,
                plan=proposal.plan,
                failure=proposal.failure,
            )
        )

    async def _persist(self, token: int, records: Sequence[Change]) -> None:
        try:
            with self._metrics.persist_seconds.time():
                await self._store.apply(records)
        except LeadershipLost:
            self.close()
            raise
        except StateUnavailable as exc:
            log.error("state not written", reason=str(exc))
            self.post(PersistFailed(token=token, reason=str(exc)))
            return
        self.post(Persisted(token=token))

    def _set_timer(self, action: SetTimer) -> None:
        known = self._timers.pop(action.timer, None)
        if known is not None:
            known.cancel()
        delay = max(action.at - self._clocks.monotonic(), 0.0)
        loop = asyncio.get_running_loop()
        self._timers[action.timer] = loop.call_later(delay, self._fire, action.timer)

    def _fire(self, timer: str) -> None:
        self._timers.pop(timer, None)
        self.post(TimerFired(timer=timer))

    def _publish(self, action: Publish) -> None:
        self.watchers.publish(action, at=self._clocks.wall())
        self._metrics.count(action)
        about = {
            "node": action.node,
            "model": action.model,
            "replica": action.replica,
            "decision_id": action.decision,
        }
        said = {name: value for name, value in about.items() if value is not None}
        log.info(action.text, kind=action.kind, **said)

    def _record(self, change: AnyChange) -> Change:
        wall = self._clocks.wall()
        if isinstance(change, StartFinished):
            return PutStart(self._remember_start(change, wall))
        moment = Moment(wall=wall, offset=self._offset)
        return change_record(change, nodes=self.core.state.nodes, moment=moment)

    def _remember_start(self, change: StartFinished, wall: float) -> StartRecord:
        start, known = start_record(change, wall=wall), self._recent_starts.get(change.replica)
        if known is not None:
            start = replace(start, first_token_seconds=known.first_token_seconds)
        self._recent_starts[change.replica] = start
        for old in list(self._recent_starts)[:-_REMEMBERED_STARTS]:
            del self._recent_starts[old]
        return start

    async def _write_start(self, start: StartRecord) -> None:
        try:
            await self._store.apply([PutStart(start)])
        except StateUnavailable as exc:
            log.warning("start not written", replica=start.replica_id, reason=str(exc))
