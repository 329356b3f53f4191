from __future__ import annotations

import math

import pytest

from pilotlight.scheduler.core.expiry import IdleExpiries, expires_at
from pilotlight.scheduler.testing import Case
from pilotlight.scheduler.testing.case import NOW
from pilotlight.store_node.protocol import ModelId, ReplicaId


def _case(*idle_seconds: float) -> tuple[Case, list[ReplicaId]]:
    """Return replicas of a model with a keep-alive of a minute, on one node."""
    case = Case()
    node = case.node(devices=len(idle_seconds))
    return case, [case.replica("m", node, idle_seconds=seconds) for seconds in idle_seconds]


@pytest.mark.parametrize(("keep_alive", "seconds"), [(5.0, 5.0), (0.0, 0.0), (None, 1.15)])
def test_a_replica_expires_after_its_keep_alive_or_what_its_load_took(
    keep_alive: float | None, seconds: float
) -> None:
    case = Case()
    case.model("m", keep_alive_seconds=keep_alive)
    replica = case.state.replicas[case.replica("m", case.node(), idle_seconds=3.0)]

    assert expires_at(case.state, replica) == pytest.approx(NOW - 3.0 + seconds)


def test_what_is_busy_does_not_expire_and_what_is_of_no_model_has() -> None:
    case = Case()
    node = case.node(devices=2)
    busy = case.state.replicas[case.replica("m", node)]
    idle = case.state.replicas[case.replica("gone", node, idle_seconds=1.0)]
    del case.state.models[ModelId("gone")]

    assert math.isnan(expires_at(case.state, busy))
    assert expires_at(case.state, idle) == -math.inf


def test_the_expired_are_taken_once_the_longest_idle_first() -> None:
    case, (young, old, oldest) = _case(1.0, 61.0, 70.0)
    expiries = IdleExpiries(case.state)

    assert [each.id for each in expiries.pop_due(NOW)] == [oldest, old]
    assert expiries.pop_due(NOW) == []
    assert expiries.take_news() == NOW + 59.0
    assert [each.id for each in expiries.pop_due(NOW + 59.0)] == [young]


def test_one_that_works_again_does_not_expire() -> None:
    case, (replica, other) = _case(50.0, 40.0)
    expiries = IdleExpiries(case.state)

    case.state.replicas[replica].idle_since = None

    assert expiries.take_news() == NOW + 20.0
    assert [each.id for each in expiries.pop_due(NOW + 20.0)] == [other]


def test_one_that_is_noted_again_expires_again() -> None:
    case, (replica,) = _case(60.0)
    expiries = IdleExpiries(case.state)
    expiries.pop_due(NOW)

    expiries.note(case.state.replicas[replica])

    assert [each.id for each in expiries.pop_due(NOW)] == [replica]


def test_what_had_expired_when_it_was_written_down_is_not_taken_again() -> None:
    case, _ = _case(60.0)
    IdleExpiries(case.state).pop_due(NOW)

    assert IdleExpiries(case.state).pop_due(NOW) == []


def test_nothing_is_news_twice() -> None:
    case, (replica,) = _case(30.0)
    expiries = IdleExpiries(case.state)

    assert expiries.take_news() == NOW + 30.0
    assert expiries.take_news() is None
    expiries.note(case.state.replicas[replica])
    assert expiries.take_news() == NOW + 30.0
