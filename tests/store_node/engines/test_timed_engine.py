"""The timed engine: exact tokens, exact times."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pilotlight.store_node.engines import (
    Engine,
    EngineSetup,
    Offer,
    Weights,
    Work,
    WorkRefused,
)
from pilotlight.store_node.engines.timed import TimedEngine
from pilotlight.store_node.engines.token_hash import expected_ids
from pilotlight.store_node.errors import InvalidOption, UnsupportedModel
from pilotlight.store_node.protocol import (
    FinishReason,
    ModelId,
    Reference,
    ReplicaId,
    ReplicaSpec,
    RequestId,
    Sampling,
)
from pilotlight.store_node.testing import EngineContract, FakeClock, run_to_end

if TYPE_CHECKING:
    import torch


class _NoWeights:
    def __init__(self) -> None:
        self.size_bytes = 0
        self.copied_bytes = 0
        self.aliases: dict[str, str] = {}

    def tensors(self) -> dict[str, torch.Tensor]:
        raise AssertionError("the timed engine looks at no weights")


def _setup(
    directory: Path,
    options: dict[str, str] | None = None,
    *,
    concurrency: int = 1,
    context_tokens: int = 0,
    **more_options: str,
) -> EngineSetup:
    spec = ReplicaSpec(
        replica_id=ReplicaId("r"),
        model=ModelId("model"),
        reference=Reference("c"),
        engine="timed",
        engine_options={**(options or {}), **more_options},
        concurrency=concurrency,
        context_tokens=context_tokens,
    )
    return EngineSetup(spec=spec, directory=directory, threads=1)


def _bind(setup: EngineSetup, clock: FakeClock) -> tuple[TimedEngine, Offer]:
    engine = TimedEngine(clock=clock)
    engine.prepare(setup)
    return engine, engine.bind(_NoWeights())


def _work(
    name: str = "a", *, prompt: int = 10, max_tokens: int = 3, sampling: Sampling | None = None
) -> Work:
    return Work(
        request_id=RequestId(name),
        attempt=1,
        prompt_ids=tuple(range(prompt)),
        emitted_ids=(),
        sampling=sampling or Sampling(temperature=0.0, max_tokens=max_tokens),
    )


def _arrivals(engine: Engine, clock: FakeClock) -> list[tuple[str, float]]:
    """Step to the end; return when each token came."""
    times: list[tuple[str, float]] = []
    while engine.is_busy:
        emissions = engine.step()
        times += [(emission.request_id, round(clock.now(), 9)) for emission in emissions]
    return times


class TestContract(EngineContract):
    @pytest.fixture
    def make_engine(self) -> Callable[[], Engine]:
        return lambda: TimedEngine(clock=FakeClock())

    @pytest.fixture
    def engine_setup(self, tmp_path: Path) -> EngineSetup:
        return _setup(tmp_path, concurrency=4, context_tokens=64)

    @pytest.fixture
    def weights(self) -> Weights:
        return _NoWeights()


class TestContractOneAtATime(TestContract):
    @pytest.fixture
    def engine_setup(self, tmp_path: Path) -> EngineSetup:
        return _setup(tmp_path, context_tokens=64)


def test_prefill_and_decode_take_what_the_options_say(tmp_path: Path) -> None:
    clock = FakeClock(100.0)
    engine, _ = _bind(
        _setup(
            tmp_path,
            prefill_seconds="0.5",
            prefill_seconds_per_token="0.01",
            decode_seconds="0.02",
            decode_seconds_per_request="0.003",
        ),
        clock,
    )

    engine.admit(_work(prompt=10))

    # prefill 0.5 + 10 * 0.01, then 0.02 + 1 * 0.003 a token
    assert [at for _, at in _arrivals(engine, clock)] == [100.6, 100.623, 100.646]


def test_requests_decode_together_after_their_prefills(tmp_path: Path) -> None:
    clock = FakeClock()
    engine, _ = _bind(
        _setup(
            tmp_path,
            concurrency=2,
            prefill_seconds="1",
            prefill_seconds_per_token="0",
            decode_seconds="0.1",
            decode_seconds_per_request="0.01",
        ),
        clock,
    )

    engine.admit(_work("a", max_tokens=2))
    engine.admit(_work("b", max_tokens=3))

    # Both prefills, then 0.1 + 2 * 0.01 for both, then 0.1 + 1 * 0.01 for the one left.
    assert _arrivals(engine, clock) == [
        ("a", 1.0),
        ("b", 2.0),
        ("a", 2.12),
        ("b", 2.12),
        ("b", 2.23),
    ]


def test_oversleeping_does_not_add_up(tmp_path: Path) -> None:
    clock = FakeClock()
    engine, _ = _bind(
        _setup(
            tmp_path,
            prefill_seconds="0.004",
            prefill_seconds_per_token="0",
            decode_seconds="0.004",
            decode_seconds_per_request="0",
        ),
        clock,
    )
    engine.admit(_work(max_tokens=100))

    while engine.is_busy:
        clock.advance(0.001)
        engine.step()

    # 100 tokens of 4 ms, and the one millisecond by which the last step came late
    assert clock.now() == pytest.approx(0.4, abs=0.0011)


def test_a_process_that_was_held_up_does_not_catch_up(tmp_path: Path) -> None:
    clock = FakeClock()
    engine, _ = _bind(
        _setup(
            tmp_path,
            prefill_seconds="1",
            prefill_seconds_per_token="0",
            decode_seconds="1",
            decode_seconds_per_request="0",
        ),
        clock,
    )
    engine.admit(_work(max_tokens=3))

    clock.advance(60)

    assert [at for _, at in _arrivals(engine, clock)] == [61.0, 62.0, 63.0]


def test_a_prefill_begins_no_sooner_than_its_request_came(tmp_path: Path) -> None:
    clock = FakeClock()
    engine, _ = _bind(_setup(tmp_path, prefill_seconds="1", prefill_seconds_per_token="0"), clock)
    engine.admit(_work(max_tokens=1))
    _arrivals(engine, clock)
    clock.advance(0.005)

    engine.admit(_work(max_tokens=1))

    assert [at for _, at in _arrivals(engine, clock)] == [2.005]


def test_a_step_is_short_however_long_the_prefill(tmp_path: Path) -> None:
    clock = FakeClock()
    engine, _ = _bind(_setup(tmp_path, prefill_seconds="60"), clock)
    engine.admit(_work())

    emissions = engine.step()

    assert list(emissions) == []
    assert clock.now() <= 0.01


def test_a_cancelled_prefill_makes_room_at_once(tmp_path: Path) -> None:
    clock = FakeClock()
    engine, _ = _bind(
        _setup(tmp_path, concurrency=2, prefill_seconds="60", prefill_seconds_per_token="0"),
        clock,
    )
    engine.admit(_work("a", max_tokens=1))
    engine.admit(_work("b", max_tokens=1))
    engine.step()

    engine.cancel(RequestId("a"))

    assert _arrivals(engine, clock) == [("b", 60.01)]  # after one step of 0.01


def test_tokens_are_the_expected_ones(tmp_path: Path) -> None:
    clock = FakeClock()
    engine, _ = _bind(_setup(tmp_path, vocabulary="500"), clock)
    sampled = Sampling(temperature=1.0, seed=9, max_tokens=20)

    greedy = run_to_end(engine, [_work(prompt=3, max_tokens=20)])[RequestId("a")]
    seeded = run_to_end(engine, [_work(prompt=3, sampling=sampled)])[RequestId("a")]

    assert greedy.token_ids == [*expected_ids((0, 1, 2), 20, salt="model", vocabulary=500)]
    assert seeded.token_ids == [*expected_ids((0, 1, 2), 20, salt="model", seed=9, vocabulary=500)]


def test_what_options_leave_open_is_read_from_the_configuration(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"vocab_size": 10, "n_positions": 77}))

    engine, offer = _bind(_setup(tmp_path, concurrency=3), FakeClock())
    answer = run_to_end(engine, [_work(max_tokens=50)])[RequestId("a")]

    assert offer == Offer(concurrency=3, context_tokens=77, dtype="none")
    assert set(answer.token_ids) <= set(range(10))


@pytest.mark.parametrize("nonsense", [2**31, 10**30, -1, 1.5, True, "many", None])
def test_counts_that_make_no_sense_are_taken_as_not_stated(
    tmp_path: Path, nonsense: object
) -> None:
    config = {"vocab_size": nonsense, "max_position_embeddings": nonsense, "n_positions": 77}
    (tmp_path / "config.json").write_text(json.dumps(config))

    _, offer = _bind(_setup(tmp_path), FakeClock())

    assert offer.context_tokens == 77


def test_a_replica_that_asks_for_no_concurrency_runs_one_request(tmp_path: Path) -> None:
    _, offer = _bind(_setup(tmp_path, concurrency=0), FakeClock())

    assert offer.concurrency == 1


def test_options_win_over_replica_and_configuration(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"max_position_embeddings": 77}))
    options = {"concurrency": "5", "context_tokens": "50", "kv_tokens": "90"}

    _, offer = _bind(_setup(tmp_path, options, concurrency=3, context_tokens=60), FakeClock())

    assert offer == Offer(concurrency=5, context_tokens=50, dtype="none", kv_tokens=90)


def test_requests_wait_for_memory_and_come_in_when_it_is_free(tmp_path: Path) -> None:
    engine, _ = _bind(_setup(tmp_path, concurrency=8, kv_tokens="30"), FakeClock())
    engine.admit(_work("a", prompt=10, max_tokens=8))  # holds 18

    with pytest.raises(WorkRefused) as refused:
        engine.admit(_work("b", prompt=10, max_tokens=3))  # 13 more than 30 - 18
    engine.cancel(RequestId("a"))
    engine.admit(_work("b", prompt=10, max_tokens=3))

    assert refused.value.code == "full"


def test_a_request_larger_than_all_memory_is_too_long(tmp_path: Path) -> None:
    engine, _ = _bind(_setup(tmp_path, kv_tokens="30"), FakeClock())

    with pytest.raises(WorkRefused) as refused:
        engine.admit(_work(prompt=20, max_tokens=11))

    assert refused.value.code == "too_long"


def test_a_request_that_is_already_running_is_refused(tmp_path: Path) -> None:
    engine, _ = _bind(_setup(tmp_path, concurrency=2), FakeClock())
    engine.admit(_work())

    with pytest.raises(WorkRefused, match="already running"):
        engine.admit(_work())


def test_stop_ids_stop_where_the_hash_happens_to_emit_them(tmp_path: Path) -> None:
    engine, _ = _bind(_setup(tmp_path, vocabulary="4"), FakeClock())
    whole = expected_ids((0, 1), 40, salt="model", vocabulary=4)
    sampling = Sampling(temperature=0.0, max_tokens=40, stop_token_ids=(2,))

    answer = run_to_end(engine, [_work(prompt=2, sampling=sampling)])[RequestId("a")]

    assert answer.token_ids == [*whole[: whole.index(2) + 1]]
    assert answer.finish_reason is FinishReason.STOP


def test_a_misspelt_option_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidOption, match="did you mean 'decode_seconds'"):
        TimedEngine().prepare(_setup(tmp_path, decode_secs="1"))


def test_a_broken_configuration_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{")

    with pytest.raises(UnsupportedModel, match=r"config\.json"):
        TimedEngine().prepare(_setup(tmp_path))
