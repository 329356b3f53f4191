from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from pilotlight.store_node.core import ValueEvictor
from pilotlight.store_node.core.actions import SetTimer
from pilotlight.store_node.core.events import ShutdownRequested, StreamClosed, TimerFired
from pilotlight.store_node.engines import WorkFailure
from pilotlight.store_node.protocol import (
    FinishReason,
    Reference,
    ReplicaId,
    ReplicaState,
    RequestId,
)
from pilotlight.store_node.protocol.refusals import ErrorCode
from pilotlight.store_node.testing import NodeCase

CHECKPOINTS = {"a": 1, "b": 2, "c": 3, "d": 4}
N_DEVICES, DEVICE_CHUNKS, DRAM_CHUNKS = 3, 3, 5

references = st.sampled_from([Reference(name) for name in CHECKPOINTS])
requests = st.sampled_from(["q0", "q1", "q2", "q3"])
ALIVE = (ReplicaState.STARTING, ReplicaState.READY, ReplicaState.DRAINING)


class AnyOrder(RuleBasedStateMachine):
    """Commands, requests, completions and deaths in any order that the world allows.

    `NodeCase` checks every action against a strict pool, one load per
    checkpoint, and bound chunks; and after each event the core's integrity.
    """

    def __init__(self) -> None:
        super().__init__()
        self.case = NodeCase(
            devices=N_DEVICES,
            device_chunks=DEVICE_CHUNKS,
            dram_chunks=DRAM_CHUNKS,
            evictor=ValueEvictor(),
        )
        self.versions = dict.fromkeys(CHECKPOINTS, 1)
        self.n_started = 0
        self.attempts: dict[str, int] = {}
        self.places: dict[str, str] = {}
        self.timers: list[TimerFired] = []
        for name, chunks in CHECKPOINTS.items():
            self.case.checkpoint(name, chunks=chunks)

    def note_timers(self) -> None:
        for action in self.case.asked_for(SetTimer):
            assert isinstance(action, SetTimer)
            self.timers.append(TimerFired(key=action.key))

    def in_state(self, *states: ReplicaState) -> list[str]:
        return [
            each.replica_id for each in self.case.core.reports.replicas() if each.state in states
        ]

    def bind(self, replica: str) -> None:
        """Offer KV memory for two requests of 19 tokens, and slots for three."""
        self.case.bind(replica, concurrency=3, kv_tokens=40)

    @rule(seconds=st.floats(0.0, 5.0))
    def wait(self, seconds: float) -> None:
        self.case.after(seconds)

    @rule(reference=references, devices=st.integers(1, 3), evict=st.lists(references, max_size=2))
    def start(self, reference: Reference, devices: int, evict: list[Reference]) -> None:
        self.n_started += 1
        replica = f"r{self.n_started}"
        self.case.start(reference, replica, devices=devices, evict=evict, concurrency=3)

    @precondition(lambda self: self.in_state(ReplicaState.STARTING))
    @rule(data=st.data())
    def bring_up(self, data: st.DataObject) -> None:
        replica = data.draw(st.sampled_from(self.in_state(ReplicaState.STARTING)))
        reference = self.case.status(replica).reference
        if reference in self.case.loads:
            self.case.finish_load(reference)
        if self.case.workers.get(ReplicaId(replica)) == "preparing":
            self.case.prepare(replica)
        if self.case.workers.get(ReplicaId(replica)) == "binding":
            self.bind(replica)

    @precondition(lambda self: self.in_state(*ALIVE))
    @rule(data=st.data(), grace=st.sampled_from([0.0, 3.0]), if_idle=st.booleans())
    def stop(self, data: st.DataObject, grace: float, if_idle: bool) -> None:
        replica = data.draw(st.sampled_from(self.in_state(*ALIVE)))
        self.case.stop(replica, grace_seconds=grace, if_idle=if_idle)
        self.note_timers()

    @precondition(lambda self: self.in_state(ReplicaState.STARTING))
    @rule(data=st.data())
    def cancel_start(self, data: st.DataObject) -> None:
        self.case.cancel_start(data.draw(st.sampled_from(self.in_state(ReplicaState.STARTING))))

    @rule(reference=references, priority=st.integers(0, 2))
    def fetch(self, reference: Reference, priority: int) -> None:
        self.case.fetch(reference, priority=priority)

    @rule(reference=references)
    def evict(self, reference: Reference) -> None:
        self.case.evict(reference)

    @rule(reference=references, pinned=st.booleans())
    def pin(self, reference: Reference, pinned: bool) -> None:
        self.case.pin(reference, pinned=pinned)

    @rule(reference=references)
    def change(self, reference: Reference) -> None:
        self.versions[reference] += 1
        self.case.checkpoint(
            reference, chunks=CHECKPOINTS[reference], version=self.versions[reference]
        )

    @precondition(lambda self: self.case.loads)
    @rule(data=st.data(), fraction=st.sampled_from([0.25, 0.5, 0.75]))
    def progress(self, data: st.DataObject, fraction: float) -> None:
        reference = data.draw(st.sampled_from(sorted(self.case.loads)))
        self.case.progress(reference, int(CHECKPOINTS[reference] * 1_000 * fraction))

    @precondition(lambda self: self.case.loads)
    @rule(
        data=st.data(),
        code=st.sampled_from([None, ErrorCode.READ_FAILED, ErrorCode.CHECKSUM_MISMATCH]),
        succeeds=st.booleans(),
    )
    def end_load(self, data: st.DataObject, code: ErrorCode | None, succeeds: bool) -> None:
        reference = data.draw(st.sampled_from(sorted(self.case.loads)))
        is_cancelled = self.case.loads[reference] in self.case.cancelled_loads
        if succeeds or (code is None and not is_cancelled):
            self.case.finish_load(reference, queue_seconds=0.5)
        else:
            self.case.fail_load(reference, code)

    @precondition(lambda self: self.case.workers)
    @rule(data=st.data(), what=st.sampled_from(["prepare", "bind", "die"]))
    def worker(self, data: st.DataObject, what: str) -> None:
        replica = data.draw(st.sampled_from(sorted(self.case.workers)))
        phase = self.case.workers[replica]
        if what == "die":
            self.case.die(replica)
        elif phase == "binding":
            self.bind(replica)
        else:
            self.case.prepare(replica)

    @precondition(lambda self: self.in_state(*ALIVE))
    @rule(data=st.data(), request=requests, step=st.integers(0, 1))
    def generate(self, data: st.DataObject, request: str, step: int) -> None:
        ready = self.in_state(ReplicaState.READY) or self.in_state(*ALIVE)
        replica = data.draw(st.sampled_from(ready))
        self.attempts[request] = self.attempts.get(request, 1) + step
        self.places[request] = replica
        self.case.generate(request, replica, attempt=self.attempts[request])
        self.note_timers()

    @precondition(lambda self: self.attempts)
    @rule(data=st.data(), how=st.sampled_from(["cancel", "leave", "emit", "finish", "fail", "old"]))
    def request(self, data: st.DataObject, how: str) -> None:
        name = data.draw(st.sampled_from(sorted(self.attempts)))
        attempt = self.attempts[name]
        if how == "cancel":
            self.case.cancel(name, attempt=attempt)
        elif how == "leave":
            self.case.handle(StreamClosed(request_id=RequestId(name), attempt=attempt))
        else:
            self.case.emit(
                name,
                self.places[name],
                attempt=attempt - 1 if how == "old" else attempt,
                finish=FinishReason.STOP if how == "finish" else None,
                failure=WorkFailure(code="odd", message="why") if how == "fail" else None,
            )

    @precondition(lambda self: self.timers)
    @rule(data=st.data())
    def fire(self, data: st.DataObject) -> None:
        number = data.draw(st.integers(0, len(self.timers) - 1))
        self.case.handle(self.timers.pop(number))

    @invariant()
    def what_has_ended_holds_nothing(self) -> None:
        for status in self.case.core.reports.replicas():
            if status.state in (ReplicaState.STOPPED, ReplicaState.FAILED):
                assert status.devices == ()
                assert status.replica_id not in self.case.workers
                assert bool(status.error) == (status.state is ReplicaState.FAILED)

    @invariant()
    def kv_memory_is_never_promised_twice(self) -> None:
        for summary in self.case.core.reports.summaries(now=self.case.now):
            assert summary.kv_tokens_free == 40 - 19 * summary.running >= 0

    @invariant()
    def no_device_is_leased_twice(self) -> None:
        leased = [i for status in self.case.core.reports.replicas() for i in status.devices]
        assert len(leased) == len(set(leased))

    @invariant()
    def dram_never_exceeds_its_capacity(self) -> None:
        assert self.case.chunks()[1] <= DRAM_CHUNKS

    def teardown(self) -> None:
        """Whatever happened, everything ends when the node is told to stop."""
        self.case.handle(ShutdownRequested())
        for replica in sorted(self.case.workers):
            assert self.case.workers[replica] == "killed"
            self.case.die(replica)
        for reference in sorted(self.case.loads):
            assert self.case.loads[reference] in self.case.cancelled_loads
            self.case.fail_load(reference, None)
        assert self.case.core.is_idle
        assert self.case.chunks()[2] == 0
        assert not list(self.case.core.reports.summaries(now=self.case.now))


AnyOrder.TestCase.settings = settings(stateful_step_count=80)
TestAnyOrder = pytest.mark.property(AnyOrder.TestCase)
