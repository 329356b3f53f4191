from __future__ import annotations

import json

from pilotlight.scheduler.core.actions import (
    DecisionEnded,
    DecisionMade,
    NodeChanged,
    RejectedStep,
    ReplicaChanged,
    StartFinished,
)
from pilotlight.scheduler.core.plan import DecisionId, EstimatedStart, Start, StepId
from pilotlight.scheduler.core.state import Node
from pilotlight.scheduler.driver.change_records import Moment, change_record, start_record
from pilotlight.scheduler.store import (
    DecisionRecord,
    FinishDecision,
    NodeRecord,
    Phases,
    PutDecision,
    PutNode,
    PutReplica,
    PutStart,
    RemoveReplica,
    ReplicaRecord,
)
from pilotlight.scheduler.testing import reports
from pilotlight.store_node.protocol import (
    ChecksumState,
    Incarnation,
    ModelId,
    NodeId,
    ReplicaId,
    ReplicaState,
    Tier,
)

WALL = 1.7e9
MOMENT = Moment(wall=WALL, offset=7)
D1 = DecisionId("d1-1")

START = Start(
    id=StepId("start-1"),
    model=ModelId("m"),
    node=NodeId("a"),
    tier=Tier.SSD,
    reason="first token in 1.150 s",
)
FINISHED = StartFinished(
    replica=ReplicaId("r1-1"),
    model=ModelId("m"),
    node=NodeId("a"),
    decision=D1,
    size_bytes=10**9,
    age_seconds=3.0,
    ready_seconds=1.2,
    estimated=EstimatedStart(
        queue_seconds=0.1,
        transfer_seconds=1.0,
        worker_seconds=0.2,
        bind_seconds=0.05,
        prefill_seconds=0.3,
    ),
    outcome=reports.outcome_of(
        checksum=ChecksumState.LEARNED, bottleneck="disk-bound", prefill_seconds=0.25
    ),
)


def test_a_decision_is_kept_with_its_steps_and_reasons() -> None:
    rejected = RejectedStep(step=replace_id(START, "start-2"), reason="a has 0 free devices")
    change = DecisionMade(decision=D1, policy="random", steps=(START,), rejected=(rejected,))

    record = change_record(change, nodes={}, moment=MOMENT)

    assert isinstance(record, PutDecision)
    decision = record.decision
    plan = json.loads(decision.plan)
    assert decision == DecisionRecord(
        decision_id="d1-1",
        policy="random",
        made_at=WALL,
        recording_offset=7,
        plan=decision.plan,
        reasons=("first token in 1.150 s",),
    )
    assert [(step["step"], step["id"]) for step in plan["steps"]] == [("start", "start-1")]
    assert plan["rejected"][0]["reason"] == "a has 0 free devices"


def test_the_end_of_a_decision_is_kept() -> None:
    change = DecisionEnded(decision=D1, outcome="done")

    record = change_record(change, nodes={}, moment=MOMENT)

    assert record == FinishDecision(decision_id="d1-1", outcome="done", finished_at=WALL)


def test_a_replica_that_lives_is_kept() -> None:
    change = replica_change(ReplicaState.READY)

    record = change_record(change, nodes={}, moment=MOMENT)

    assert record == PutReplica(
        ReplicaRecord(
            replica_id="r1-1",
            model="m",
            node_id="a",
            state="ready",
            devices=2,
            decision_id="d1-1",
            changed_at=WALL,
        )
    )


def test_a_replica_that_has_ended_is_forgotten() -> None:
    for state in (ReplicaState.STOPPED, ReplicaState.FAILED):
        record = change_record(replica_change(state), nodes={}, moment=MOMENT)

        assert record == RemoveReplica("r1-1")


def test_a_node_is_kept_with_what_it_has() -> None:
    report = reports.report_of("a", devices=4)
    node = Node(
        id=report.node_id,
        incarnation=report.incarnation,
        address=report.address,
        is_up=True,
        resources=report.resources,
        engines=report.engines,
        package_version="0.1.0",
        version=1,
        heard_at=0.0,
    )
    change = NodeChanged(
        node=node.id, incarnation=Incarnation("a-1"), address="a:9000", is_up=False
    )

    record = change_record(change, nodes={node.id: node}, moment=MOMENT)

    assert record == PutNode(
        NodeRecord(
            node_id="a",
            incarnation="a-1",
            address="a:9000",
            is_up=False,
            changed_at=WALL,
            devices=4,
            device_kind="cpu",
            dram_bytes=1 << 40,
            version="0.1.0",
        )
    )


def test_a_start_is_kept_with_what_was_expected_and_measured() -> None:
    record = change_record(FINISHED, nodes={}, moment=MOMENT)

    assert record == PutStart(start_record(FINISHED, wall=WALL))
    start = start_record(FINISHED, wall=WALL)
    assert (start.tier, start.size_bytes, start.bytes_read) == ("ssd", 10**9, 10**9)
    # It was sent three seconds ago.
    assert (start.started_at, start.ready_seconds) == (WALL - 3.0, 1.2)
    assert start.estimated == Phases(
        queue_seconds=0.1,
        transfer_seconds=1.0,
        worker_seconds=0.2,
        bind_seconds=0.05,
        prefill_seconds=0.3,
    )
    assert start.measured == Phases(
        queue_seconds=0.0,
        transfer_seconds=1.0,
        worker_seconds=0.1,
        bind_seconds=0.05,
        prefill_seconds=0.25,
    )
    assert (start.checksum, start.bottleneck, start.error) == ("learned", "disk-bound", "")


def test_a_failed_start_is_kept_without_phases() -> None:
    failed = StartFinished(
        replica=ReplicaId("r1-1"),
        model=ModelId("m"),
        node=NodeId("a"),
        decision=D1,
        size_bytes=10**9,
        age_seconds=3.0,
        ready_seconds=3.0,
        estimated=None,
        outcome=None,
        error="the weights lack lm_head.weight",
    )

    start = start_record(failed, wall=WALL)

    assert (start.tier, start.bytes_read, start.estimated, start.measured) == ("", 0, None, None)
    assert start.error == "the weights lack lm_head.weight"


def replica_change(state: ReplicaState) -> ReplicaChanged:
    return ReplicaChanged(
        replica=ReplicaId("r1-1"),
        model=ModelId("m"),
        node=NodeId("a"),
        devices=2,
        state=state,
        decision=D1,
    )


def replace_id(step: Start, id_: str) -> Start:
    return Start(id=StepId(id_), model=step.model, node=step.node, tier=step.tier)
