from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import replace
from typing import Any, NoReturn

import grpc
import pytest

from pilotlight.scheduler.core.events import (
    AnyEvent,
    EpochRaised,
    NodeDisconnected,
    NodeJoined,
    NodeUpdated,
)
from pilotlight.scheduler.driver.registry import NodeRegistry
from pilotlight.scheduler.driver.testing import ScriptedChannels
from pilotlight.scheduler.errors import LeadershipLost
from pilotlight.scheduler.testing.reports import report_of, status_of
from pilotlight.store_node.protocol import (
    Hello,
    Incarnation,
    NodeId,
    NodeReport,
    NodeUpdate,
    Welcome,
    store_node_pb2,
    wire,
)

HEARTBEAT_SECONDS = 1.0
SILENCE_SECONDS = 3.0


class Aborted(Exception):
    """What `abort` raises to end a call."""


class Node:
    """A node's end of a session."""

    def __init__(self, registry: NodeRegistry, report: NodeReport, *, epoch: int = 0) -> None:
        self.report = report
        self.epoch = epoch
        self.is_deaf = False
        self.welcomes: list[Welcome] = []
        self.status: tuple[grpc.StatusCode, str] | None = None
        self._said: asyncio.Queue[store_node_pb2.NodeMessage | None] = asyncio.Queue()
        context: Any = self
        self.session = asyncio.ensure_future(self._hold(registry, context))

    def hello(self, **fields: Any) -> None:
        hello = Hello(
            node_id=self.report.node_id, incarnation=self.report.incarnation, epoch=self.epoch
        )
        message = wire.to_message(replace(hello, **fields), store_node_pb2.Hello)
        self.say(store_node_pb2.NodeMessage(hello=message))

    def acknowledge(self, epoch: int | None = None, *, report: NodeReport | None = None) -> None:
        message = store_node_pb2.Acknowledge(
            epoch=self.welcomes[-1].epoch if epoch is None else epoch,
            report=wire.to_message(report or self.report, store_node_pb2.NodeReport),
        )
        self.say(store_node_pb2.NodeMessage(acknowledge=message))

    def update(self, update: NodeUpdate | None = None) -> None:
        message = wire.to_message(update or NodeUpdate(), store_node_pb2.NodeUpdate)
        self.say(store_node_pb2.NodeMessage(update=message))

    def say(self, message: store_node_pb2.NodeMessage) -> None:
        self._said.put_nowait(message)

    def leave(self) -> None:
        self._said.put_nowait(None)

    async def cut(self) -> None:
        """Let the connection break: grpc cancels the handler."""
        self.session.cancel()
        await asyncio.wait([self.session])

    async def join(self) -> None:
        self.hello()
        await asyncio.sleep(0.01)
        self.acknowledge()
        await asyncio.sleep(0.01)

    # What the registry uses of a call's context.

    async def write(self, message: store_node_pb2.ControllerMessage) -> None:
        if self.is_deaf:
            raise RuntimeError("RPC already finished.")
        self.welcomes.append(wire.from_message(message.welcome, Welcome))

    async def abort(self, code: grpc.StatusCode, details: str) -> NoReturn:
        self.status = (code, details)
        raise Aborted

    async def _hold(self, registry: NodeRegistry, context: Any) -> None:
        try:
            await registry.Session(self._messages(), context)
        except Aborted:
            return

    async def _messages(self) -> AsyncGenerator[store_node_pb2.NodeMessage]:
        while (message := await self._said.get()) is not None:
            yield message


class Leading:
    """A registry of a leader with epoch 5."""

    def __init__(self) -> None:
        self.events: list[AnyEvent] = []
        self.channels = ScriptedChannels()
        self.raised: list[int] = []
        self.nodes: list[Node] = []
        self.is_replaced = False
        self.registry = NodeRegistry(
            epoch=5,
            raise_epoch=self._raise,
            post=self.events.append,
            channels=self.channels,
            heartbeat_seconds=HEARTBEAT_SECONDS,
        )

    def node(self, name: str = "a", *, epoch: int = 0, **fields: Any) -> Node:
        node = Node(self.registry, report_of(name, **fields), epoch=epoch)
        self.nodes.append(node)
        return node

    async def _raise(self, above: int) -> int:
        self.raised.append(above)
        await asyncio.sleep(0.1)
        if self.is_replaced:
            raise LeadershipLost("epoch 5 has ended; epoch 6 leads")
        return above + 1

    def events_of(self, kind: type[Any]) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]


@pytest.fixture
async def leading() -> AsyncIterator[Leading]:
    leading = Leading()
    yield leading
    for node in leading.nodes:
        node.session.cancel()
    if leading.nodes:
        await asyncio.wait([node.session for node in leading.nodes])


async def test_a_node_is_welcomed_and_joins_with_its_report(leading: Leading) -> None:
    node = leading.node()

    node.hello()
    await asyncio.sleep(0.01)
    before = list(leading.events)
    node.acknowledge()
    await asyncio.sleep(0.01)

    assert node.welcomes == [Welcome(epoch=5, heartbeat_seconds=HEARTBEAT_SECONDS)]
    assert before == []
    assert leading.events == [NodeJoined(report=node.report)]


async def test_updates_count_once_the_node_has_joined(leading: Leading) -> None:
    node = leading.node()
    update = NodeUpdate(replicas=(status_of("r1", "m"),))

    node.hello()
    node.update(update)
    await asyncio.sleep(0.01)
    node.acknowledge()
    node.update(update)
    await asyncio.sleep(0.01)

    assert leading.events == [
        NodeJoined(report=node.report),
        NodeUpdated(node=NodeId("a"), incarnation=Incarnation("a-1"), update=update),
    ]


async def test_a_session_begins_with_hello(leading: Leading) -> None:
    node = leading.node()

    node.update()
    await node.session

    assert node.status == (grpc.StatusCode.INVALID_ARGUMENT, "a session begins with Hello")
    assert leading.events == []


async def test_who_says_nothing_at_all_is_dismissed(leading: Leading) -> None:
    node = leading.node()

    await node.session

    assert asyncio.get_running_loop().time() == pytest.approx(SILENCE_SECONDS)
    assert leading.events == []


async def test_who_hangs_up_without_a_word_is_dismissed(leading: Leading) -> None:
    node = leading.node()

    node.leave()
    await node.session

    assert node.status == (grpc.StatusCode.INVALID_ARGUMENT, "a session begins with Hello")


@pytest.mark.parametrize("fields", [{"node_id": ""}, {"incarnation": ""}])
async def test_a_node_needs_a_name_and_an_incarnation(
    leading: Leading, fields: dict[str, str]
) -> None:
    node = leading.node()

    node.hello(**fields)
    await node.session

    assert node.status == (
        grpc.StatusCode.INVALID_ARGUMENT,
        "a node needs a name and an incarnation",
    )


async def test_a_node_that_speaks_an_older_protocol_is_refused(leading: Leading) -> None:
    node = leading.node()

    node.hello(protocol_version=0)
    await node.session

    assert node.status == (
        grpc.StatusCode.FAILED_PRECONDITION,
        "this controller speaks version 1 of the node protocol, a only 0",
    )
    assert leading.events == []


async def test_a_node_that_speaks_a_newer_protocol_too_is_welcomed_with_ours(
    leading: Leading,
) -> None:
    node = leading.node()

    node.hello(protocol_version=7)
    await asyncio.sleep(0.01)

    assert [welcome.protocol_version for welcome in node.welcomes] == [1]


async def test_a_name_that_is_taken_is_refused(leading: Leading) -> None:
    first = leading.node()
    await first.join()

    second = leading.node(incarnation=Incarnation("a-2"))
    second.hello()
    await second.session

    assert second.status == (
        grpc.StatusCode.ALREADY_EXISTS,
        "a node named a is connected; give this one another --name",
    )
    assert leading.events == [NodeJoined(report=first.report)]
    assert not first.session.done()


async def test_a_name_is_free_again_once_its_node_is_gone(leading: Leading) -> None:
    first = leading.node()
    await first.join()
    await first.cut()

    second = leading.node(incarnation=Incarnation("a-2"))
    await second.join()

    assert leading.events_of(NodeJoined)[-1].report.incarnation == "a-2"


async def test_a_node_may_begin_again_before_its_old_session_is_seen_to_end(
    leading: Leading,
) -> None:
    old = leading.node()
    await old.join()
    new = leading.node()
    await new.join()

    old.update()
    await old.cut()
    new.update()
    await asyncio.sleep(0.01)

    [*before, update] = leading.events
    assert [type(event) for event in before] == [NodeJoined, NodeDisconnected, NodeJoined]
    assert isinstance(update, NodeUpdated)


async def test_a_node_that_begins_again_and_goes_before_it_has_joined_is_not_up(
    leading: Leading,
) -> None:
    old = leading.node()
    await old.join()
    new = leading.node()
    new.hello()
    await asyncio.sleep(0.01)

    await new.cut()
    await old.cut()

    assert isinstance(leading.events[-1], NodeDisconnected)


async def test_a_node_that_goes_while_it_is_welcomed_leaves_its_name_free(
    leading: Leading,
) -> None:
    first = leading.node()
    first.is_deaf = True
    first.hello()
    await asyncio.wait([first.session])

    second = leading.node(incarnation=Incarnation("a-2"))
    await second.join()

    assert leading.events_of(NodeJoined)[-1].report.incarnation == "a-2"


async def test_a_name_that_was_taken_while_the_epoch_was_raised_is_refused(
    leading: Leading,
) -> None:
    first = leading.node(epoch=8)
    second = leading.node(epoch=8, incarnation=Incarnation("a-2"))

    first.hello()
    second.hello()
    await asyncio.sleep(1.0)

    assert second.status is not None
    assert second.status[0] is grpc.StatusCode.ALREADY_EXISTS
    assert not first.session.done()


async def test_a_silent_node_is_gone_for_good(leading: Leading) -> None:
    node = leading.node()
    await node.join()
    node.update()
    began = asyncio.get_running_loop().time()

    await node.session

    assert asyncio.get_running_loop().time() - began == pytest.approx(SILENCE_SECONDS, abs=0.1)
    assert leading.events_of(NodeDisconnected) == [
        NodeDisconnected(
            node=NodeId("a"),
            incarnation=Incarnation("a-1"),
            reason="silent for 3 s",
            may_return=False,
        )
    ]


async def test_heartbeats_keep_a_session(leading: Leading) -> None:
    node = leading.node()
    await node.join()

    for _ in range(20):
        await asyncio.sleep(HEARTBEAT_SECONDS)
        node.update()

    assert not node.session.done()
    assert len(leading.events_of(NodeUpdated)) == 19


async def test_a_node_whose_connection_breaks_may_return(leading: Leading) -> None:
    node = leading.node()
    await node.join()

    await node.cut()

    [event] = leading.events_of(NodeDisconnected)
    assert (event.reason, event.may_return) == ("the connection broke", True)


async def test_a_node_that_leaves_says_so(leading: Leading) -> None:
    node = leading.node()
    await node.join()

    node.leave()
    await node.session

    [event] = leading.events_of(NodeDisconnected)
    assert event.reason == "it left"


async def test_a_node_that_never_joined_can_t_be_lost(leading: Leading) -> None:
    node = leading.node()
    node.hello()
    await asyncio.sleep(0.01)

    await node.cut()

    assert leading.events == []


async def test_a_node_that_has_seen_a_higher_epoch_makes_this_leader_take_a_higher_one(
    leading: Leading,
) -> None:
    first = leading.node("a")
    await first.join()

    second = leading.node("b", epoch=8)
    second.hello()
    await asyncio.sleep(0.2)
    second.acknowledge()
    first.acknowledge()
    await asyncio.sleep(0.01)

    assert leading.raised == [8]
    assert leading.events_of(EpochRaised) == [EpochRaised(epoch=9)]
    # All sessions are welcomed again, and report again.
    assert [welcome.epoch for welcome in first.welcomes] == [5, 9]
    assert [welcome.epoch for welcome in second.welcomes] == [9]
    assert [event.report.node_id for event in leading.events_of(NodeJoined)] == ["a", "b", "a"]


async def test_the_epoch_is_raised_once_for_all_that_ask_for_it(leading: Leading) -> None:
    nodes = [leading.node(name, epoch=8) for name in ("a", "b", "c")]

    for node in nodes:
        node.hello()
    await asyncio.sleep(1.0)

    assert leading.raised == [8]
    assert all(node.welcomes[-1].epoch == 9 for node in nodes)


async def test_a_node_that_can_t_be_told_of_a_higher_epoch_keeps_it_from_nobody(
    leading: Leading,
) -> None:
    deaf, other = leading.node("a"), leading.node("b")
    await deaf.join()
    await other.join()
    deaf.is_deaf = True

    reporting = leading.node("c", epoch=8)
    reporting.hello()
    await asyncio.sleep(1.0)

    assert [welcome.epoch for welcome in other.welcomes] == [5, 9]
    assert [welcome.epoch for welcome in reporting.welcomes] == [9]


async def test_an_acknowledgement_of_an_old_epoch_is_passed_over(leading: Leading) -> None:
    node = leading.node()
    node.hello()
    await asyncio.sleep(0.01)

    node.acknowledge(4)
    node.update()
    await asyncio.sleep(0.01)

    assert leading.events == []


async def test_a_leader_that_was_replaced_raises_no_epoch(leading: Leading) -> None:
    leading.is_replaced = True
    node = leading.node(epoch=8)

    node.hello()
    await node.session

    assert node.status == (grpc.StatusCode.UNAVAILABLE, "epoch 5 has ended; epoch 6 leads")
    assert node.welcomes == []
    assert leading.events == []


async def test_a_report_of_another_node_ends_the_session(leading: Leading) -> None:
    node = leading.node("a")
    await node.join()

    node.acknowledge(report=report_of("b"))
    await node.session

    assert node.status == (
        grpc.StatusCode.INVALID_ARGUMENT,
        "it sent nonsense: its report is another node's",
    )
    [event] = leading.events_of(NodeDisconnected)
    assert event.node == "a"


async def test_nonsense_ends_the_session_of_who_sent_it(leading: Leading) -> None:
    node, other = leading.node("a"), leading.node("b")
    await node.join()
    await other.join()

    message = store_node_pb2.NodeMessage()
    # A replica in a state that nobody knows.
    message.update.replicas.add(replica_id="r1").MergeFromString(
        bytes([store_node_pb2.ReplicaStatus.STATE_FIELD_NUMBER << 3, 99])
    )
    node.say(message)
    await node.session

    assert node.status is not None
    assert node.status[0] is grpc.StatusCode.INVALID_ARGUMENT
    assert node.status[1].startswith("it sent nonsense: ")
    assert not other.session.done()


async def test_an_unreadable_hello_is_refused(leading: Leading) -> None:
    node = leading.node()

    node.say(store_node_pb2.NodeMessage(acknowledge=store_node_pb2.Acknowledge(epoch=5)))
    await node.session

    assert node.status == (grpc.StatusCode.INVALID_ARGUMENT, "a session begins with Hello")


async def test_the_connection_to_where_a_node_was_is_given_up(leading: Leading) -> None:
    first = leading.node(address="a:1")
    await first.join()
    await first.cut()
    assert leading.channels.forgotten == []

    second = leading.node(address="a:2", incarnation=Incarnation("a-2"))
    await second.join()

    assert leading.channels.forgotten == ["a:1"]


async def test_a_connection_to_a_node_is_made_before_it_is_needed(leading: Leading) -> None:
    opened: list[str] = []
    get = leading.channels.get

    def note(address: str) -> Any:
        opened.append(address)
        return get(address)

    leading.channels.get = note  # type: ignore[method-assign]  # what the registry calls
    await leading.node().join()

    assert opened == ["a:9000"]
