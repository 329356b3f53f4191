"""Failures of the timed engine, on demand."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.store_node.engines.timed_rig import NoWeights, bind, make_setup, make_work

from pilotlight.store_node.engines.timed import TimedEngine
from pilotlight.store_node.errors import InvalidOption
from pilotlight.store_node.protocol import FinishReason, RequestId
from pilotlight.store_node.testing import EngineRun, FakeClock


class _WaitedTooLongError(Exception):
    pass


class _ImpatientClock(FakeClock):
    """Somebody who loses patience after a day."""

    def wait_until(self, at: float) -> None:
        super().wait_until(at)
        if self.now() > 86_400:
            raise _WaitedTooLongError


def test_an_engine_that_is_told_nothing_does_not_fail(tmp_path: Path) -> None:
    engine, _ = bind(make_setup(tmp_path), FakeClock())
    run = EngineRun(engine)

    run.admit(make_work(max_tokens=100))
    run.to_end()

    assert run.transcripts[RequestId("a")].finish_reason is FinishReason.LENGTH


@pytest.mark.parametrize(
    ("failure", "error"),
    [
        ("error", RuntimeError),
        ("out_of_memory", MemoryError),
        ("stall", _WaitedTooLongError),
    ],
)
def test_preparing_and_binding_fail_as_they_are_told(
    tmp_path: Path, failure: str, error: type[Exception]
) -> None:
    preparing = TimedEngine(clock=_ImpatientClock())
    binding = TimedEngine(clock=_ImpatientClock())
    binding.prepare(make_setup(tmp_path, fail_bind=failure))

    with pytest.raises(error):
        preparing.prepare(make_setup(tmp_path, fail_prepare=failure))
    with pytest.raises(error):
        binding.bind(NoWeights())


def test_a_stalled_engine_emits_no_more_and_lets_go_of_what_is_cancelled(tmp_path: Path) -> None:
    clock = FakeClock()
    engine, _ = bind(make_setup(tmp_path, concurrency=2, stall_after_tokens="3"), clock)
    run = EngineRun(engine)
    first = run.admit(make_work("a", max_tokens=10))
    run.until(lambda: len(first.token_ids) == 3)
    run.admit(make_work("b"))

    emitted = [emission for _ in range(1000) for emission in run.step()]
    waited = clock.now()
    run.cancel(RequestId("a"))
    is_busy = engine.is_busy
    run.cancel(RequestId("b"))

    assert emitted == []
    assert waited > 9  # a step waits, so that a process without tokens doesn't spin
    assert is_busy
    assert not engine.is_busy


def test_a_request_without_numbers_fails_alone(tmp_path: Path) -> None:
    engine, _ = bind(make_setup(tmp_path, concurrency=3, nan_after_tokens="4"), FakeClock())
    run = EngineRun(engine)

    long = run.admit(make_work("long", max_tokens=10))
    short = run.admit(make_work("short", max_tokens=4))
    run.to_end()

    assert long.failure is not None
    assert long.failure.code == "invalid_logits"
    assert len(long.token_ids) == 4
    assert long.finish_reason is None
    assert short.finish_reason is FinishReason.LENGTH
    # The slot is free again, and the name too.
    assert run.admit(make_work("long", max_tokens=1)) is not None


def test_tokens_of_earlier_attempts_count_towards_a_failure(tmp_path: Path) -> None:
    engine, _ = bind(make_setup(tmp_path, nan_after_tokens="0"), FakeClock())
    run = EngineRun(engine)

    transcript = run.admit(make_work(max_tokens=10))
    run.to_end()

    assert transcript.failure is not None
    assert transcript.token_ids == []


@pytest.mark.parametrize(
    ("name", "value"),
    [("fail_bind", "explode"), ("crash_after_tokens", "-1"), ("slow_factor", "0")],
)
def test_failures_that_are_unknown_are_refused(tmp_path: Path, name: str, value: str) -> None:
    with pytest.raises(InvalidOption, match=f"{name}='{value}'"):
        TimedEngine().prepare(make_setup(tmp_path, {name: value}))
