"""That equality is shown, and that its lack is, on an engine whose tokens are exact."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.store_node.bench.meddling import Meddled, other_token
from tests.store_node.engines.timed_rig import bind, make_setup

from pilotlight.store_node.bench.equality import (
    MOST_AT_ONCE,
    Model,
    compare_outputs,
    draw_sampling,
    draw_works,
)
from pilotlight.store_node.engines.engine import Emission, Engine
from pilotlight.store_node.engines.progress import Progress
from pilotlight.store_node.protocol import FinishReason
from pilotlight.store_node.testing import FakeClock

MODEL = Model(vocabulary=100, context_tokens=160)


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    return bind(make_setup(tmp_path, concurrency=16, context_tokens=160), FakeClock())[0]


def test_outputs_of_a_good_engine_are_equal(engine: Engine) -> None:
    comparison = compare_outputs(engine, MODEL, n_requests=60, seed=1)

    assert comparison.differences == []
    assert comparison.n_requests == 60
    # Each together with others, and those of more than one token resumed.
    assert 60 < comparison.n_compared <= 120
    # 15 % of some 115.
    assert 5 < comparison.n_cancelled < 40


def test_sixteen_are_there_at_once(engine: Engine) -> None:
    counted: Any = Meddled(engine)

    compare_outputs(counted, MODEL, n_requests=60, seed=1)

    assert counted.most_at_once == MOST_AT_ONCE


def test_a_token_that_depends_on_who_else_runs_is_found(engine: Engine) -> None:
    meddled: Any = Meddled(engine)

    def change(emission: Emission) -> Emission:
        is_wrong = emission.token_ids and meddled.n_running > 7
        return other_token(emission) if is_wrong else emission

    meddled._change = change

    comparison = compare_outputs(meddled, MODEL, n_requests=40, seed=1)

    assert {each.way for each in comparison.differences} == {
        "together",
        "resumed",
        "resumed in rounds",
    }
    for each in comparison.differences:
        assert each.expected_id is not None
        assert each.found_id == each.expected_id + 1
        assert len(each.ids_before) == each.seq


@pytest.mark.parametrize(
    ("suffix", "way"),
    [("-together", "together"), ("-resumed", "resumed"), ("-in-rounds", "resumed in rounds")],
)
def test_one_wrong_token_is_one_difference(engine: Engine, suffix: str, way: str) -> None:
    struck: list[str] = []

    def change(emission: Emission) -> Emission:
        if struck or not emission.token_ids or not emission.request_id.endswith(suffix):
            return emission
        struck.append(emission.request_id)
        return other_token(emission)

    meddled: Any = Meddled(engine, change)

    comparison = compare_outputs(meddled, MODEL, n_requests=10, seed=1)

    (difference,) = comparison.differences
    assert difference.way == way
    assert [f"{difference.work.request_id}{suffix}"] == struck


def test_an_end_for_another_reason_is_a_difference(engine: Engine) -> None:
    def change(emission: Emission) -> Emission:
        if emission.request_id.endswith("-together") and emission.finish_reason:
            return replace(emission, finish_reason=FinishReason.CANCELLED)
        return emission

    meddled: Any = Meddled(engine, change)

    comparison = compare_outputs(meddled, MODEL, n_requests=10, seed=1)

    assert comparison.differences
    for each in comparison.differences:
        assert (each.way, each.expected_id, each.found_id) == ("together", None, None)


def test_the_same_seed_draws_the_same_requests() -> None:
    first, second = (draw_works(random.Random(3), 20, MODEL) for _ in range(2))

    assert first == second
    assert first != draw_works(random.Random(4), 20, MODEL)


def test_every_request_is_one_that_engines_take() -> None:
    for work in draw_works(random.Random(5), 300, MODEL):
        Progress(work, context_tokens=MODEL.context_tokens, vocabulary=MODEL.vocabulary)


def test_all_kinds_of_sampling_are_drawn() -> None:
    rng = random.Random(6)

    drawn = [draw_sampling(rng, MODEL) for _ in range(200)]

    assert {sampling.temperature == 0 for sampling in drawn} == {True, False}
    assert {bool(sampling.logit_bias) for sampling in drawn} == {True, False}
    for name in ("top_p", "top_k", "presence_penalty", "frequency_penalty", "repetition_penalty"):
        assert len({getattr(sampling, name) for sampling in drawn}) > 1, name
