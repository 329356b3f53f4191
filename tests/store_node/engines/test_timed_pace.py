"""When the tokens of the timed engine come."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.store_node.engines.timed_rig import arrivals, bind, make_setup, make_work

from pilotlight.store_node.engines import Extension
from pilotlight.store_node.engines.token_hash import expected_ids
from pilotlight.store_node.protocol import RequestId
from pilotlight.store_node.testing import EngineRun, FakeClock


def test_prefill_and_decode_take_what_the_options_say(tmp_path: Path) -> None:
    clock = FakeClock(100.0)
    engine, _ = bind(
        make_setup(
            tmp_path,
            prefill_seconds="0.5",
            prefill_seconds_per_token="0.01",
            decode_seconds="0.02",
            decode_seconds_per_request="0.003",
        ),
        clock,
    )

    engine.admit(make_work(prompt=10))

    # prefill 0.5 + 10 * 0.01, then 0.02 + 1 * 0.003 a token
    assert [at for _, at in arrivals(engine, clock)] == [100.6, 100.623, 100.646]


def test_requests_decode_together_after_their_prefills(tmp_path: Path) -> None:
    clock = FakeClock()
    engine, _ = bind(
        make_setup(
            tmp_path,
            concurrency=2,
            prefill_seconds="1",
            prefill_seconds_per_token="0",
            decode_seconds="0.1",
            decode_seconds_per_request="0.01",
        ),
        clock,
    )

    engine.admit(make_work("a", max_tokens=2))
    engine.admit(make_work("b", max_tokens=3))

    # Both prefills, then 0.1 + 2 * 0.01 for both, then 0.1 + 1 * 0.01 for the one left.
    assert arrivals(engine, clock) == [
        ("a", 1.0),
        ("b", 2.0),
        ("a", 2.12),
        ("b", 2.12),
        ("b", 2.23),
    ]


def test_oversleeping_does_not_add_up(tmp_path: Path) -> None:
    clock = FakeClock()
    engine, _ = bind(
        make_setup(
            tmp_path,
            prefill_seconds="0.004",
            prefill_seconds_per_token="0",
            decode_seconds="0.004",
            decode_seconds_per_request="0",
        ),
        clock,
    )
    engine.admit(make_work(max_tokens=100))

    while engine.is_busy:
        clock.advance(0.001)
        engine.step()

    # 100 tokens of 4 ms, and the one millisecond by which the last step came late
    assert clock.now() == pytest.approx(0.4, abs=0.0011)


def test_a_process_that_was_held_up_does_not_catch_up(tmp_path: Path) -> None:
    clock = FakeClock()
    engine, _ = bind(
        make_setup(
            tmp_path,
            prefill_seconds="1",
            prefill_seconds_per_token="0",
            decode_seconds="1",
            decode_seconds_per_request="0",
        ),
        clock,
    )
    engine.admit(make_work(max_tokens=3))

    clock.advance(60)

    assert [at for _, at in arrivals(engine, clock)] == [61.0, 62.0, 63.0]


def test_a_prefill_begins_no_sooner_than_its_request_came(tmp_path: Path) -> None:
    clock = FakeClock()
    engine, _ = bind(
        make_setup(tmp_path, prefill_seconds="1", prefill_seconds_per_token="0"), clock
    )
    engine.admit(make_work(max_tokens=1))
    arrivals(engine, clock)
    clock.advance(0.005)

    engine.admit(make_work(max_tokens=1))

    assert [at for _, at in arrivals(engine, clock)] == [2.005]


def test_a_step_is_short_however_long_the_prefill(tmp_path: Path) -> None:
    clock = FakeClock()
    engine, _ = bind(make_setup(tmp_path, prefill_seconds="60"), clock)
    engine.admit(make_work())

    emissions = engine.step()

    assert list(emissions) == []
    assert clock.now() <= 0.01


def test_a_cancelled_prefill_makes_room_at_once(tmp_path: Path) -> None:
    clock = FakeClock()
    engine, _ = bind(
        make_setup(tmp_path, concurrency=2, prefill_seconds="60", prefill_seconds_per_token="0"),
        clock,
    )
    engine.admit(make_work("a", max_tokens=1))
    engine.admit(make_work("b", max_tokens=1))
    engine.step()

    engine.cancel(RequestId("a"))

    assert arrivals(engine, clock) == [("b", 60.01)]  # after one step of 0.01


def test_chunks_of_a_prompt_come_beside_the_tokens_of_others(tmp_path: Path) -> None:
    clock = FakeClock()
    engine, _ = bind(
        make_setup(
            tmp_path,
            concurrency=2,
            prefill_seconds="1",
            prefill_seconds_per_token="0.1",
            decode_seconds="0.5",
            decode_seconds_per_request="0",
            prefill_chunk="4",
        ),
        clock,
    )
    run = EngineRun(engine)
    transcript = run.admit(make_work("a", prompt=4, max_tokens=4))
    run.until(lambda: bool(transcript.token_ids))
    prefilled_at = clock.now()

    engine.admit(make_work("b", prompt=10, max_tokens=1))

    # a's prefill took 1 + 4 * 0.1; with its tokens go 1 + 4 * 0.1, 4 * 0.1, 2 * 0.1 of b's.
    assert prefilled_at == pytest.approx(1.4)
    assert arrivals(engine, clock) == [("a", 3.3), ("a", 4.2), ("a", 4.9), ("b", 4.9)]


def test_a_pass_holds_the_chunks_of_as_many_prompts_as_fit(tmp_path: Path) -> None:
    clock = FakeClock()
    engine, _ = bind(
        make_setup(
            tmp_path,
            concurrency=3,
            prefill_seconds="1",
            prefill_seconds_per_token="0.1",
            prefill_chunk="5",
        ),
        clock,
    )

    for name in ("a", "b", "c"):
        engine.admit(make_work(name, prompt=2, max_tokens=1))

    # Two prompts of 1 + 2 * 0.1 and half of c's, 1 + 1 * 0.1; then the rest of it.
    assert arrivals(engine, clock) == [("a", 3.5), ("b", 3.5), ("c", 3.6)]


def test_a_cancelled_prompt_leaves_its_pass_to_the_others(tmp_path: Path) -> None:
    clock = FakeClock()
    engine, _ = bind(
        make_setup(
            tmp_path,
            concurrency=2,
            prefill_seconds="1",
            prefill_seconds_per_token="0",
            prefill_chunk="100",
        ),
        clock,
    )
    engine.admit(make_work("a", max_tokens=1))
    engine.admit(make_work("b", max_tokens=1))
    engine.step()

    engine.cancel(RequestId("a"))

    # What computes them both is under way.
    assert arrivals(engine, clock) == [("b", 2.0)]


def test_a_held_attempt_takes_the_time_of_its_tokens(tmp_path: Path) -> None:
    clock = FakeClock()
    engine, _ = bind(
        make_setup(
            tmp_path,
            prefill_seconds="1",
            prefill_seconds_per_token="0.1",
            decode_seconds="0.5",
            decode_seconds_per_request="0",
        ),
        clock,
    )
    whole = expected_ids(range(10), 6, salt="model", vocabulary=32_000)
    run = EngineRun(engine)
    transcript = run.admit(make_work(max_tokens=6, is_held=True))
    times: list[float] = []

    for begin, end in ((0, 3), (3, 5), (5, 5)):
        run.until(lambda: transcript.is_prepared or not engine.is_busy)
        times.append(clock.now())
        run.extend(
            Extension(
                request_id=RequestId("a"),
                attempt=2,
                emitted_ids=whole[begin:end],
                is_held=end < 5 or begin < 5,
            )
        )
    run.to_end()

    # 1 + 10 * 0.1, then 3 * 0.1, then 2 * 0.1; at last 0.5 for the token that was left.
    assert times == pytest.approx([2.0, 2.3, 2.5])
    assert clock.now() == pytest.approx(3.0)
    assert transcript.token_ids == [whole[5]]


def test_a_prepared_attempt_is_in_nobodys_way(tmp_path: Path) -> None:
    clock = FakeClock()
    engine, _ = bind(
        make_setup(tmp_path, concurrency=2, prefill_seconds="1", prefill_seconds_per_token="0"),
        clock,
    )
    engine.admit(make_work("held", is_held=True))
    arrivals(engine, clock)

    engine.admit(make_work("a", max_tokens=2))

    # The pass of one request: 0.002 + 1 * 0.0001
    assert arrivals(engine, clock) == [("a", 2.0), ("a", 2.0021)]


def test_everything_is_as_much_slower_as_it_is_to_be(tmp_path: Path) -> None:
    clock = FakeClock()
    engine, _ = bind(
        make_setup(
            tmp_path,
            prefill_seconds="1",
            prefill_seconds_per_token="0",
            decode_seconds="0.1",
            decode_seconds_per_request="0",
            slow_factor="2.5",
        ),
        clock,
    )

    engine.admit(make_work(max_tokens=2))

    assert arrivals(engine, clock) == [("a", 2.5), ("a", 2.75)]
