from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import grpc
import pytest
from google.protobuf.message import Message

from pilotlight.scheduler.core.actions import Command, Send
from pilotlight.scheduler.core.events import Acked, AnyEvent, Lost, Refused
from pilotlight.scheduler.core.plan import DecisionId, StepId
from pilotlight.scheduler.driver.commands import RETRY_SECONDS, CommandSender
from pilotlight.scheduler.driver.testing import Call, ScriptedChannels, accept, hang
from pilotlight.scheduler.testing.rpc_errors import broken, refused
from pilotlight.store_node.protocol import (
    CancelStartRequest,
    CommandHeader,
    EvictCheckpointRequest,
    FetchCheckpointRequest,
    Incarnation,
    ModelId,
    NodeId,
    Reference,
    ReplicaId,
    ReplicaSpec,
    StartReplicaRequest,
    StopReplicaRequest,
    store_node_pb2,
)
from pilotlight.store_node.protocol.refusals import ErrorCode

DEADLINE_SECONDS = 10.0


class Sending:
    """A sender, what it sends, and what it says came of that."""

    def __init__(self, tasks: asyncio.TaskGroup) -> None:
        self.channels = ScriptedChannels()
        self.events: list[AnyEvent] = []
        self.sender = CommandSender(tasks, channels=self.channels, post=self.events.append)

    def send(self, step: str = "s1", *, node: str = "a", command: Command | None = None) -> None:
        header = header_of(step, node)
        stop = StopReplicaRequest(header=header, replica_id=ReplicaId("r1"))
        self.sender.send(
            Send(
                node=NodeId(node),
                incarnation=header.incarnation,
                decision=DecisionId("d1"),
                step=StepId(step),
                command=command or stop,
            ),
            address=f"{node}:9000",
        )

    @property
    def keys(self) -> list[str]:
        return [call.message.header.idempotency_key for call in self.channels.calls]


def header_of(step: str = "s1", node: str = "a") -> CommandHeader:
    return CommandHeader(
        epoch=3,
        incarnation=Incarnation(f"{node}-1"),
        idempotency_key=f"3/d1/{step}",
        deadline_seconds=DEADLINE_SECONDS,
        decision_id="d1",
        step_id=step,
    )


@pytest.fixture
async def sending() -> AsyncIterator[Sending]:
    async with asyncio.TaskGroup() as tasks:
        sending = Sending(tasks)
        yield sending
        sending.sender.close()


def acked(step: str = "s1") -> Acked:
    return Acked(decision=DecisionId("d1"), step=StepId(step))


SPEC = ReplicaSpec(replica_id=ReplicaId("r1"), model=ModelId("m"), reference=Reference("m"))


@pytest.mark.parametrize(
    ("command", "method"),
    [
        (StartReplicaRequest(header=header_of(), spec=SPEC, priority=2), "StartReplica"),
        (StopReplicaRequest(header=header_of(), replica_id=ReplicaId("r1")), "StopReplica"),
        (CancelStartRequest(header=header_of(), replica_id=ReplicaId("r1")), "CancelStart"),
        (FetchCheckpointRequest(header=header_of(), reference=Reference("m")), "FetchCheckpoint"),
        (EvictCheckpointRequest(header=header_of(), reference=Reference("m")), "EvictCheckpoint"),
    ],
)
async def test_each_command_has_its_call(sending: Sending, command: Command, method: str) -> None:
    sending.send(command=command)
    await asyncio.sleep(1.0)

    [call] = sending.channels.calls
    assert (call.address, call.method) == ("a:9000", method)
    header = call.message.header
    assert (header.epoch, header.incarnation, header.idempotency_key) == (3, "a-1", "3/d1/s1")
    assert (header.decision_id, header.step_id) == ("d1", "s1")
    assert sending.events == [acked()]


async def test_the_commands_of_a_node_go_one_after_the_other(sending: Sending) -> None:
    running: list[str] = []

    async def answer(call: Call) -> Message:
        running.append(call.message.header.step_id)
        assert len(running) == 1, "two at a time"
        await asyncio.sleep(1.0)
        running.clear()
        return store_node_pb2.CommandResponse()

    sending.channels.answer = answer
    for step in ("s1", "s2", "s3"):
        sending.send(step)
    await asyncio.sleep(5.0)

    assert sending.keys == ["3/d1/s1", "3/d1/s2", "3/d1/s3"]
    assert sending.events == [acked("s1"), acked("s2"), acked("s3")]


async def test_a_node_that_does_not_answer_holds_up_no_other(sending: Sending) -> None:
    sending.channels.answer = lambda call: hang(call) if call.address == "a:9000" else accept(call)

    sending.send("s1", node="a")
    sending.send("s2", node="b")
    await asyncio.sleep(0.1)

    assert sending.events == [acked("s2")]


async def test_a_broken_connection_is_tried_again_with_the_same_key(sending: Sending) -> None:
    failures = [broken(), broken()]

    async def answer(call: Call) -> Message:
        if failures:
            raise failures.pop()
        return store_node_pb2.CommandResponse()

    sending.channels.answer = answer
    sending.send()
    await asyncio.sleep(1.0)

    assert sending.keys == ["3/d1/s1"] * 3
    times = [call.at for call in sending.channels.calls]
    assert times == pytest.approx([0.0, RETRY_SECONDS, 2 * RETRY_SECONDS])
    assert sending.events == [acked()]


async def test_a_node_that_can_t_be_reached_until_the_deadline_is_lost(sending: Sending) -> None:
    async def answer(call: Call) -> Message:
        raise broken()

    sending.channels.answer = answer
    sending.send()
    await asyncio.sleep(DEADLINE_SECONDS + 1.0)

    assert sending.events == [
        Lost(decision=DecisionId("d1"), step=StepId("s1"), reason="the node can't be reached")
    ]
    assert len(sending.keys) == pytest.approx(DEADLINE_SECONDS / RETRY_SECONDS, abs=1)
    assert sending.channels.calls[-1].at < DEADLINE_SECONDS


async def test_a_node_that_does_not_answer_until_the_deadline_is_lost(sending: Sending) -> None:
    sending.channels.answer = hang
    sending.send()
    await asyncio.sleep(DEADLINE_SECONDS + 1.0)

    [lost] = sending.events
    assert isinstance(lost, Lost)
    assert lost.reason == "Deadline Exceeded"
    assert sending.channels.calls[0].timeout_seconds == pytest.approx(DEADLINE_SECONDS)


async def test_waiting_in_line_is_not_held_against_a_command(sending: Sending) -> None:
    async def answer(call: Call) -> Message:
        await asyncio.sleep(6.0)
        return store_node_pb2.CommandResponse()

    sending.channels.answer = answer
    for step in ("s1", "s2"):
        sending.send(step)
    await asyncio.sleep(15.0)

    assert sending.events == [acked("s1"), acked("s2")]


@pytest.mark.parametrize(
    "code", [ErrorCode.DEVICES_BUSY, ErrorCode.REPLICA_BUSY, ErrorCode.NODE_STOPPING]
)
async def test_what_a_node_refuses_is_not_asked_again(sending: Sending, code: ErrorCode) -> None:
    async def answer(call: Call) -> Message:
        raise refused(code, "both devices are taken")

    sending.channels.answer = answer
    sending.send()
    await asyncio.sleep(DEADLINE_SECONDS)

    assert sending.events == [
        Refused(
            decision=DecisionId("d1"),
            step=StepId("s1"),
            code=code,
            reason="both devices are taken",
        )
    ]
    assert len(sending.keys) == 1


async def test_an_answer_that_says_nothing_is_lost(sending: Sending) -> None:
    async def answer(call: Call) -> Message:
        raise broken(grpc.StatusCode.UNKNOWN, "Unexpected <class 'KeyError'>")

    sending.channels.answer = answer
    sending.send()
    await asyncio.sleep(1.0)

    [lost] = sending.events
    assert isinstance(lost, Lost)
    assert lost.reason == "Unexpected <class 'KeyError'>"


async def test_a_line_that_ran_empty_begins_again(sending: Sending) -> None:
    sending.send("s1")
    await asyncio.sleep(1.0)
    sending.send("s2")
    await asyncio.sleep(1.0)

    assert sending.events == [acked("s1"), acked("s2")]


async def test_a_node_that_was_restarted_has_a_line_of_its_own(sending: Sending) -> None:
    sending.channels.answer = hang
    sending.send("s1")
    await asyncio.sleep(0.1)
    sending.channels.answer = accept
    again = CommandHeader(epoch=3, incarnation=Incarnation("a-2"), idempotency_key="k")
    sending.sender.send(
        Send(
            node=NodeId("a"),
            incarnation=again.incarnation,
            decision=DecisionId("d2"),
            step=StepId("s2"),
            command=StopReplicaRequest(
                header=CommandHeader(
                    epoch=3,
                    incarnation=again.incarnation,
                    idempotency_key="k",
                    deadline_seconds=DEADLINE_SECONDS,
                ),
                replica_id=ReplicaId("r1"),
            ),
        ),
        address="a:9001",
    )
    await asyncio.sleep(0.1)

    assert sending.events == [Acked(decision=DecisionId("d2"), step=StepId("s2"))]


async def test_closing_waits_for_nobody() -> None:
    loop = asyncio.get_running_loop()
    async with asyncio.TaskGroup() as tasks:
        sending = Sending(tasks)
        sending.channels.answer = hang
        for step in ("s1", "s2", "s3"):
            sending.send(step)
        await asyncio.sleep(0.1)

        sending.sender.close()

    assert loop.time() < 1.0
    assert sending.events == []
