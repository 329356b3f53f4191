"""Crowds, on an engine whose tokens are exact: the timed one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.store_node.bench.meddling import Meddled, Refusing
from tests.store_node.engines.timed_rig import bind, make_setup, make_work

from pilotlight.process.bench.errors import BenchFailed
from pilotlight.store_node.bench.crowd import Crowd, Guest, alone
from pilotlight.store_node.engines.engine import Emission, Engine, Work, WorkFailure
from pilotlight.store_node.protocol import FinishReason, RequestId
from pilotlight.store_node.testing import FakeClock


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    return bind(make_setup(tmp_path, concurrency=16, context_tokens=160), FakeClock())[0]


def works(n: int) -> list[Work]:
    return [make_work(f"r{number}", prompt=3 + number, max_tokens=6) for number in range(n)]


def test_all_come_and_go(engine: Engine) -> None:
    expected = alone(engine, works(5))

    outputs = Crowd(engine, [Guest(work=each) for each in works(5)], widths=(3,)).run()

    assert outputs == expected
    assert {output.finish_reason for output in outputs.values()} == {FinishReason.LENGTH}
    assert not engine.is_busy


@pytest.mark.parametrize("width", [1, 3, 16])
def test_no_more_are_let_in_at_once_than_the_width_says(engine: Engine, width: int) -> None:
    counted: Any = Meddled(engine)

    Crowd(counted, [Guest(work=each) for each in works(9)], widths=(width,)).run()

    assert counted.most_at_once == min(width, 9)


def test_guests_come_at_their_step(engine: Engine) -> None:
    counted: Any = Meddled(engine)
    guests = [Guest(work=each, arrives_at=20 * n) for n, each in enumerate(works(3))]

    Crowd(counted, guests, widths=(16,)).run()

    # Six tokens take fewer steps than twenty.
    assert counted.most_at_once == 1


def test_who_leaves_has_got_what_came_until_then(engine: Engine) -> None:
    (whole,) = alone(engine, works(1)).values()
    guest = Guest(work=works(1)[0], cancelled_after=3)

    (cut,) = Crowd(engine, [guest]).run().values()

    assert cut.is_cancelled
    assert cut.finish_reason is None
    assert cut.token_ids == whole.token_ids[: len(cut.token_ids)]
    assert len(cut.token_ids) < len(whole.token_ids)
    assert not engine.is_busy


@pytest.mark.parametrize("pause_steps", [0, 5])
def test_a_held_guest_goes_on_after_its_last_piece(engine: Engine, pause_steps: int) -> None:
    (work,) = works(1)
    ids = tuple(alone(engine, [work])[work.request_id].token_ids)
    held = replace(work, attempt=2, emitted_ids=ids[:1], is_held=True)
    guest = Guest(work=held, pieces=[ids[1:3], (), ids[3:4]], pause_steps=pause_steps)

    (output,) = Crowd(engine, [guest]).run().values()

    assert tuple(output.token_ids) == ids[4:]


def test_who_is_refused_with_nobody_in_its_way_will_never_come(engine: Engine) -> None:
    refusing: Any = Refusing(engine)

    with pytest.raises(BenchFailed, match="r0 is refused: no room, ever"):
        Crowd(refusing, [Guest(work=works(1)[0])]).run()


def skip_one(emission: Emission) -> Emission:
    return replace(emission, seq=emission.seq + 1)


def fail(emission: Emission) -> Emission:
    return replace(emission, failure=WorkFailure(code="invalid_logits", message="not finite"))


@pytest.mark.parametrize(
    ("change", "words"), [(skip_one, "should begin at 0"), (fail, "r0 failed: not finite")]
)
def test_emissions_that_don_t_follow_are_told(engine: Engine, change: Any, words: str) -> None:
    meddled: Any = Meddled(engine, change)

    with pytest.raises(BenchFailed, match=words):
        Crowd(meddled, [Guest(work=works(1)[0])]).run()


def test_tokens_after_the_end_are_told(engine: Engine) -> None:
    meddled: Any = Meddled(engine, lambda each: replace(each, request_id=RequestId("nobody")))

    with pytest.raises(BenchFailed, match="nobody has ended"):
        Crowd(meddled, [Guest(work=works(1)[0])]).run()


def test_an_engine_that_hangs_is_told(engine: Engine) -> None:
    hanging: Any = Meddled(engine)
    hanging.step = list

    with pytest.raises(BenchFailed, match="nothing came of 10001 steps"):
        Crowd(hanging, [Guest(work=works(1)[0])]).run()
