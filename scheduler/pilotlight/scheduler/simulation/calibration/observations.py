"""What a recording says of how long everything took.

Theory of operation. The recorded events are given to a core as they were to the
one that was recorded, so it asks for the same actions; from an action to the
event that answers it is what the controller, its database or a node needed.
What a start was made of, its node has said itself.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from pilotlight.estimators import Estimator
from pilotlight.scheduler.core.actions import Persist, RequestPlan, Send, StartFinished
from pilotlight.scheduler.core.core import Core
from pilotlight.scheduler.core.events import (
    Acked,
    AnyEvent,
    NodeUpdated,
    Persisted,
    PlanProposed,
)
from pilotlight.scheduler.core.recording import Entry, Header, read_recording
from pilotlight.scheduler.core.state import ClusterState
from pilotlight.scheduler.errors import SchedulerError
from pilotlight.scheduler.simulation.tally import Tally
from pilotlight.store_node.protocol import ReplicaId


class UnusableRecording(SchedulerError, ValueError):
    """A file is no recording, or not one that can be learned from."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path}: {reason}")


@dataclass(slots=True)
class Observations:
    """Durations in seconds, each list in the order in which they were measured."""

    plan: list[float] = field(default_factory=list[float])
    """From a plan's being asked for to its proposal."""
    persist: list[float] = field(default_factory=list[float])
    command: list[float] = field(default_factory=list[float])
    """From a command's sending to its node's word that it carries it out."""
    report: list[float] = field(default_factory=list[float])
    """What passed between a start's command and the news that it is READY beside its phases."""
    teardown: list[float] = field(default_factory=list[float])
    step_by_model: dict[str, list[float]] = field(
        default_factory=lambda: defaultdict[str, list[float]](list)
    )
    """Of a decode step, as running requests were seen to get on."""
    starts: list[StartFinished] = field(default_factory=list[StartFinished])
    """That became READY, the first token of their first request included where it came."""
    state: ClusterState = field(default_factory=ClusterState)
    """What the core knew at the recording's end: nodes, models, copies."""


def observe(files: Iterable[Path], estimator: Estimator) -> Observations:
    """Return what the files of one controller's recording say, oldest first.

    Raises:
        UnusableRecording: one of them is no recording, or does not begin where the core does.
    """
    observer: _Observer | None = None
    for path in sorted(files):
        try:
            with path.open("rb") as lines:
                header, entries = read_recording(lines)
                observer = observer or _begin(path, header, estimator)
                for entry in entries:
                    observer.check(entry)
                    observer.take(entry)
        except OSError as exc:
            raise UnusableRecording(path, exc.strerror or str(exc)) from exc
        except ValueError as exc:
            raise UnusableRecording(path, str(exc)) from exc
    return observer.end() if observer else Observations()


def _begin(path: Path, header: Header, estimator: Estimator) -> _Observer:
    if header.lessons is not None:
        estimator.take_up(header.lessons)
    return _Observer(Core(estimator=estimator, state=header.state))


class _Observer:
    """Follows one core through its recording."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._found = Observations()
        self._tally = Tally()
        self._asked: dict[object, float] = {}
        """When each action that has an answer was asked for."""
        self._teardowns: set[ReplicaId] = set()
        self._next: int | None = None
        self._now = -math.inf

    def check(self, entry: Entry) -> None:
        """Refuse an event that does not follow the one before.

        Raises:
            ValueError: with the reason.
        """
        if self._next is not None and entry.offset != self._next:
            raise ValueError(f"event {self._next} is missing: {entry.offset} comes instead")
        if entry.now < self._now:
            raise ValueError(f"event {entry.offset} is earlier than the one before it")
        self._next, self._now = entry.offset + 1, entry.now

    def take(self, entry: Entry) -> None:
        now, event = entry.now, entry.event
        self._answered(event, now)
        if isinstance(event, NodeUpdated):
            self._node_updated(event)
        for action in self._core.handle(event, now):
            self._tally.note(action, now)
            match action:
                case RequestPlan():
                    self._asked["plan", action.plan_id] = now
                case Persist():
                    self._asked["persist", action.token] = now
                case Send():
                    self._asked["command", action.decision, action.step] = now
                case _:
                    pass

    def end(self) -> Observations:
        """Return what was found."""
        found = self._found
        found.state = self._core.state
        found.starts = [each for each in self._tally.starts.values() if each.outcome is not None]
        for start in found.starts:
            outcome = start.outcome
            assert outcome is not None, "those without were left out"
            phases = (
                outcome.queue_seconds
                + outcome.transfer_seconds
                + outcome.worker_seconds
                + outcome.bind_seconds
            )
            found.report.append(max(start.ready_seconds - phases, 0.0))
        return found

    def _answered(self, event: AnyEvent, now: float) -> None:
        match event:
            case PlanProposed():
                self._note(self._found.plan, ("plan", event.plan_id), now)
            case Persisted():
                self._note(self._found.persist, ("persist", event.token), now)
            case Acked():
                self._note(self._found.command, ("command", event.decision, event.step), now)
            case _:
                pass

    def _note(self, durations: list[float], key: object, now: float) -> None:
        asked_at = self._asked.pop(key, None)
        if asked_at is not None:
            durations.append(now - asked_at)

    def _node_updated(self, event: NodeUpdated) -> None:
        for status in event.update.replicas:
            if status.teardown_seconds > 0.0 and status.replica_id not in self._teardowns:
                self._teardowns.add(status.replica_id)
                self._found.teardown.append(status.teardown_seconds)
        for summary in event.update.summaries:
            replica = self._core.state.replicas.get(summary.replica_id)
            for request in summary.requests if replica else ():
                if replica is not None and request.tokens_per_second > 0.0:
                    seconds = 1.0 / request.tokens_per_second
                    self._found.step_by_model[replica.model].append(seconds)
