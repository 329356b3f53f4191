from __future__ import annotations

import pytest

from pilotlight.store_node.core.events import EpochSeen, Event
from pilotlight.store_node.shell.inbox import Inbox


def test_events_that_come_up_meanwhile_wait_for_their_turn() -> None:
    inbox = Inbox(on_defect=lambda _: None)
    order: list[str] = []

    def handle(event: Event) -> None:
        assert isinstance(event, EpochSeen)
        order.append(f"begin {event.epoch}")
        if event.epoch == 1:
            inbox.post(EpochSeen(epoch=2))
        order.append(f"end {event.epoch}")

    inbox.hand_on_to(handle)
    inbox.post(EpochSeen(epoch=1))

    assert order == ["begin 1", "end 1", "begin 2", "end 2"]


def test_nothing_is_handed_on_after_a_defect() -> None:
    defects: list[Exception] = []
    inbox = Inbox(on_defect=defects.append)
    handled: list[Event] = []

    def handle(event: Event) -> None:
        handled.append(event)
        raise KeyError("defect")

    inbox.hand_on_to(handle)
    with pytest.raises(KeyError):
        inbox.post(EpochSeen(epoch=1))
    inbox.post(EpochSeen(epoch=2))

    assert handled == [EpochSeen(epoch=1)]
    assert len(defects) == 1
