"""A stage that checks, at every event, all that must always hold."""

from __future__ import annotations

from typing import Any

import msgspec

from pilotlight.estimators import StartEstimator
from pilotlight.scheduler.core.actions import AnyAction
from pilotlight.scheduler.core.columns import SnapshotBuilder
from pilotlight.scheduler.core.core import Core
from pilotlight.scheduler.core.events import AnyEvent
from pilotlight.scheduler.core.recording import Entry, Header, encode_entry, encode_header
from pilotlight.scheduler.core.state import ADOPTED, StepState
from pilotlight.scheduler.testing.snapshots import differing_columns
from pilotlight.scheduler.testing.stage import Stage


class WatchedStage(Stage):
    """Records what the core is told, and compares it with a twin that knows only the recording.

    The twin is a second core that was woken from a checkpoint. What must hold
    after each event: no device is promised twice, nothing waits for what nobody
    will answer, the snapshot that is kept current equals one that is built anew.
    """

    def __init__(self, **arguments: Any) -> None:
        self.lines: list[bytes] = []
        self.said: list[bytes] = []
        self.twin: Core | None = None
        super().__init__(**arguments)

    def handle(self, event: AnyEvent) -> list[AnyAction]:
        """Give the core an event; return what it asks for."""
        line = encode_entry(len(self.lines), self.now, event)
        read = msgspec.json.decode(line, type=Entry).event
        assert read == event, "an event changes when it is written"
        actions = super().handle(event)
        self.lines.append(line)
        self.said.append(msgspec.json.encode(actions))
        if self.twin is not None:
            twins = msgspec.json.encode(self.twin.handle(read, self.now))
            assert twins == self.said[-1], "a core woken from a checkpoint does something else"
        self._check_promises()
        self._check_answers()
        self._check_snapshot()
        return actions

    def wake_twin(self) -> None:
        """Write a checkpoint, and wake a core from it that is told all from now on."""
        header = Header(
            package_version="",
            policy="",
            began_at=0.0,
            began_now=self.now,
            state=self.core.state,
            lessons=self.core.estimator.lessons(),
        )
        read = msgspec.json.decode(encode_header(header), type=Header)
        estimator = StartEstimator()
        estimator.take_up(read.lessons)
        self.twin = Core(estimator=estimator, state=read.state)

    def replay(self) -> None:
        """Tell a new core all from the beginning, and compare what it does and knows."""
        core = Core(estimator=StartEstimator())
        for line, said in zip(self.lines, self.said, strict=True):
            entry = msgspec.json.decode(line, type=Entry)
            assert msgspec.json.encode(core.handle(entry.event, entry.now)) == said
        assert msgspec.json.encode(core.state) == msgspec.json.encode(self.core.state)
        assert core.estimator.lessons() == self.core.estimator.lessons()

    def _check_promises(self) -> None:
        state = self.core.state
        for node in state.nodes.values():
            # Whoever was sent holds devices now; what a node was found to run is its own affair.
            held = [
                replica.devices
                for replica in state.replicas.values()
                if replica.node == node.id
                and replica.sent_at is not None
                and replica.decision != ADOPTED
            ]
            assert sum(held) <= node.resources.devices, f"{node.id} is booked twice"

    def _check_answers(self) -> None:
        state = self.core.state
        assert state.plan_in_flight in (None, *self.plans)
        assert set(state.pending) <= {persist.token for persist in self.persists}
        unanswered = {(send.decision, send.step) for send in self.sends}
        for decision in state.decisions.values():
            for step in decision.steps.values():
                if step.state is StepState.SENT:
                    assert (decision.id, step.step.id) in unanswered

    def _check_snapshot(self) -> None:
        kept = self.core.snapshot(self.now)
        anew = SnapshotBuilder(self.core.state).build(self.now)
        assert differing_columns(kept, anew) == []
