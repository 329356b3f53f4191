"""The timed engine: exact tokens, exact times."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.store_node.engines.timed_rig import (
    NoWeights,
    bind,
    make_setup,
    make_work,
)

from pilotlight.store_node.engines import (
    Engine,
    EngineSetup,
    Offer,
    Weights,
    WorkRefused,
)
from pilotlight.store_node.engines.timed import TimedEngine
from pilotlight.store_node.engines.token_hash import expected_ids
from pilotlight.store_node.errors import InvalidOption, UnsupportedModel
from pilotlight.store_node.protocol import FinishReason, RequestId, Sampling
from pilotlight.store_node.testing import EngineContract, FakeClock, run_to_end


class TestContract(EngineContract):
    @pytest.fixture
    def make_engine(self) -> Callable[[], Engine]:
        return lambda: TimedEngine(clock=FakeClock())

    @pytest.fixture
    def engine_setup(self, tmp_path: Path) -> EngineSetup:
        return make_setup(tmp_path, concurrency=4, context_tokens=64)

    @pytest.fixture
    def weights(self) -> Weights:
        return NoWeights()


class TestContractOneAtATime(TestContract):
    @pytest.fixture
    def engine_setup(self, tmp_path: Path) -> EngineSetup:
        return make_setup(tmp_path, context_tokens=64)


class TestContractWithWholePrompts(TestContract):
    chunks_prefill = False

    @pytest.fixture
    def engine_setup(self, tmp_path: Path) -> EngineSetup:
        return make_setup(tmp_path, concurrency=4, context_tokens=64, prefill_seconds="0.5")


class TestContractWithChunksAndBlocks(TestContract):
    @pytest.fixture
    def engine_setup(self, tmp_path: Path) -> EngineSetup:
        options = {"kv_tokens": "150", "kv_block_tokens": "16", "prefill_chunk": "3"}
        return make_setup(
            tmp_path, options, concurrency=4, context_tokens=64, prefill_seconds_per_token="0.02"
        )


def test_tokens_are_the_expected_ones(tmp_path: Path) -> None:
    clock = FakeClock()
    engine, _ = bind(make_setup(tmp_path, vocabulary="500"), clock)
    sampled = Sampling(temperature=1.0, seed=9, max_tokens=20)

    greedy = run_to_end(engine, [make_work(prompt=3, max_tokens=20)])[RequestId("a")]
    seeded = run_to_end(engine, [make_work(prompt=3, sampling=sampled)])[RequestId("a")]

    assert greedy.token_ids == [*expected_ids((0, 1, 2), 20, salt="model", vocabulary=500)]
    assert seeded.token_ids == [*expected_ids((0, 1, 2), 20, salt="model", seed=9, vocabulary=500)]


def test_what_options_leave_open_is_read_from_the_configuration(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"vocab_size": 10, "n_positions": 77}))

    engine, offer = bind(make_setup(tmp_path, concurrency=3), FakeClock())
    answer = run_to_end(engine, [make_work(max_tokens=50)])[RequestId("a")]

    assert offer == Offer(
        concurrency=3, context_tokens=77, dtype="none", variant="vocabulary 10, salt model"
    )
    assert set(answer.token_ids) <= set(range(10))


@pytest.mark.parametrize("nonsense", [2**31, 10**30, -1, 1.5, True, "many", None])
def test_counts_that_make_no_sense_are_taken_as_not_stated(
    tmp_path: Path, nonsense: object
) -> None:
    config = {"vocab_size": nonsense, "max_position_embeddings": nonsense, "n_positions": 77}
    (tmp_path / "config.json").write_text(json.dumps(config))

    _, offer = bind(make_setup(tmp_path), FakeClock())

    assert offer.context_tokens == 77


def test_a_replica_that_asks_for_no_concurrency_runs_one_request(tmp_path: Path) -> None:
    _, offer = bind(make_setup(tmp_path, concurrency=0), FakeClock())

    assert offer.concurrency == 1


def test_options_win_over_replica_and_configuration(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"max_position_embeddings": 77}))
    options = {"concurrency": "5", "context_tokens": "50", "kv_tokens": "90", "salt": "mine"}

    _, offer = bind(make_setup(tmp_path, options, concurrency=3, context_tokens=60), FakeClock())

    assert offer == Offer(
        concurrency=5,
        context_tokens=50,
        dtype="none",
        kv_tokens=90,
        variant="vocabulary 32000, salt mine",
    )


def test_thousands_of_streams_run_in_one_process(tmp_path: Path) -> None:
    engine, _ = bind(
        make_setup(tmp_path, concurrency=2000, prefill_chunk="100000", kv_tokens="20000"),
        FakeClock(),
    )
    works = [make_work(f"r{n}", prompt=3 + n % 5, max_tokens=2) for n in range(2000)]

    scripts = run_to_end(engine, works)

    expected = [
        list(expected_ids(range(n), 2, salt="model", vocabulary=32_000)) for n in range(3, 8)
    ]
    assert [script.token_ids for script in scripts.values()] == expected * 400


def test_another_salt_or_vocabulary_is_another_variant(tmp_path: Path) -> None:
    setups = [
        make_setup(tmp_path),
        make_setup(tmp_path, salt="other"),
        make_setup(tmp_path, vocabulary="7"),
    ]

    variants = {bind(setup, FakeClock())[1].variant for setup in setups}

    assert len(variants) == 3


def test_memory_is_held_in_whole_blocks(tmp_path: Path) -> None:
    options = {"kv_tokens": "70", "kv_block_tokens": "16"}
    engine, offer = bind(make_setup(tmp_path, options, concurrency=8), FakeClock())
    engine.admit(make_work("a", prompt=10, max_tokens=7))  # 17 tokens: 2 blocks of the 4

    engine.admit(make_work("b", prompt=10, max_tokens=7))
    with pytest.raises(WorkRefused) as refused:
        engine.admit(make_work("c", prompt=1, max_tokens=1))

    assert offer.kv_tokens == 64  # 4 * 16
    assert refused.value.code == "full"


def test_memory_of_less_than_a_block_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidOption, match="kv_tokens=15 is less than one block of 16"):
        bind(make_setup(tmp_path, kv_tokens="15", kv_block_tokens="16"), FakeClock())


def test_requests_wait_for_memory_and_come_in_when_it_is_free(tmp_path: Path) -> None:
    engine, _ = bind(make_setup(tmp_path, concurrency=8, kv_tokens="30"), FakeClock())
    engine.admit(make_work("a", prompt=10, max_tokens=8))  # holds 18

    with pytest.raises(WorkRefused) as refused:
        engine.admit(make_work("b", prompt=10, max_tokens=3))  # 13 more than 30 - 18
    engine.cancel(RequestId("a"))
    engine.admit(make_work("b", prompt=10, max_tokens=3))

    assert refused.value.code == "full"


def test_a_request_larger_than_all_memory_is_too_long(tmp_path: Path) -> None:
    engine, _ = bind(make_setup(tmp_path, kv_tokens="30"), FakeClock())

    with pytest.raises(WorkRefused) as refused:
        engine.admit(make_work(prompt=20, max_tokens=11))

    assert refused.value.code == "too_long"


def test_a_request_that_is_already_running_is_refused(tmp_path: Path) -> None:
    engine, _ = bind(make_setup(tmp_path, concurrency=2), FakeClock())
    engine.admit(make_work())

    with pytest.raises(WorkRefused, match="already running"):
        engine.admit(make_work())


def test_stop_ids_stop_where_the_hash_happens_to_emit_them(tmp_path: Path) -> None:
    engine, _ = bind(make_setup(tmp_path, vocabulary="4"), FakeClock())
    whole = expected_ids((0, 1), 40, salt="model", vocabulary=4)
    sampling = Sampling(temperature=0.0, max_tokens=40, stop_token_ids=(2,))

    answer = run_to_end(engine, [make_work(prompt=2, sampling=sampling)])[RequestId("a")]

    assert answer.token_ids == [*whole[: whole.index(2) + 1]]
    assert answer.finish_reason is FinishReason.STOP


def test_a_misspelt_option_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidOption, match="did you mean 'decode_seconds'"):
        TimedEngine().prepare(make_setup(tmp_path, decode_secs="1"))


def test_a_broken_configuration_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{")

    with pytest.raises(UnsupportedModel, match=r"config\.json"):
        TimedEngine().prepare(make_setup(tmp_path))
