"""Choosing tokens from logits."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from pilotlight.store_node.engines.transformers.sampling import choose_token, gumbel_noise
from pilotlight.store_node.protocol import Sampling

_PROBABILITIES = (0.05, 0.4, 0.1, 0.3, 0.15)
_LOGITS = torch.tensor(_PROBABILITIES).log()
_DRAWS = 4000


def _draw(sampling: Sampling) -> Counter[int]:
    return Counter(choose_token(_LOGITS, sampling, position=position) for position in range(_DRAWS))


def test_temperature_zero_takes_the_most_likely() -> None:
    assert _draw(Sampling(temperature=0.0, top_k=3, top_p=0.1)) == {1: _DRAWS}


def test_tokens_come_as_often_as_they_are_likely() -> None:
    counts = _draw(Sampling())

    for token_id, probability in enumerate(_PROBABILITIES):
        # 4 standard deviations: 4 * sqrt(0.25 / 4000) = 0.032 at most
        assert counts[token_id] / _DRAWS == pytest.approx(probability, abs=0.032)


def test_temperature_sharpens() -> None:
    counts = _draw(Sampling(temperature=0.5))

    # 0.4**2 / (0.05**2 + 0.4**2 + 0.1**2 + 0.3**2 + 0.15**2) = 0.16 / 0.285
    assert counts[1] / _DRAWS == pytest.approx(0.16 / 0.285, abs=0.032)


@pytest.mark.parametrize("temperature", [1e-4, 1e-300, 1e-308, 1e-310, 5e-324])
@pytest.mark.parametrize("others", [{}, {"top_p": 0.9}, {"top_k": 3}, {"top_k": 3, "top_p": 1e-9}])
def test_temperatures_next_to_zero_take_the_most_likely(
    temperature: float, others: dict[str, Any]
) -> None:
    for logits in (_LOGITS, _LOGITS + 50, 1e6 * _LOGITS):
        sampling = Sampling(temperature=temperature, **others)

        assert {choose_token(logits, sampling, position=n) for n in range(20)} == {1}


@pytest.mark.property
@given(
    logits=st.lists(
        st.floats(width=32, allow_nan=False, max_value=2.0**126), min_size=1, max_size=300
    ),
    sampling=st.builds(
        Sampling,
        temperature=st.sampled_from([5e-324, 1e-308]) | st.floats(0, allow_infinity=False),
        top_p=st.floats(0, 1, exclude_min=True),
        top_k=st.integers(0, 2**32 - 1),
        seed=st.integers(0, 2**64 - 1),
    ),
)
def test_whatever_is_admitted_chooses_a_token_that_is_possible(
    logits: list[float], sampling: Sampling
) -> None:
    assume(max(logits) > -math.inf)

    token_id = choose_token(torch.tensor(logits), sampling, position=3)

    assert logits[token_id] > -math.inf


@pytest.mark.parametrize(
    ("sampling", "allowed"),
    [
        (Sampling(top_k=2), {1, 3}),
        (Sampling(top_k=100), {0, 1, 2, 3, 4}),
        (Sampling(top_p=0.4), {1}),  # 0.4 is reached with the first
        (Sampling(top_p=0.69), {1, 3}),  # 0.4 + 0.3
        (Sampling(top_p=0.71), {1, 3, 4}),
        (Sampling(top_p=1e-9), {1}),
        # Of the two most likely, 0.4 / 0.7 is more than a half.
        (Sampling(top_k=2, top_p=0.5), {1}),
    ],
)
def test_top_k_and_top_p_narrow_the_choice(sampling: Sampling, allowed: set[int]) -> None:
    assert set(_draw(sampling)) == allowed


def test_top_p_of_a_flat_distribution_takes_many() -> None:
    logits = torch.linspace(0, 0.01, 1000)

    drawn = {choose_token(logits, Sampling(top_p=0.5), position=n) for n in range(_DRAWS)}

    # The upper half, as all are about equally likely.
    assert min(drawn) >= 490
    assert len(drawn) > 450


def test_a_draw_depends_on_seed_and_position_alone() -> None:
    sampling = Sampling(seed=3)

    draws = [choose_token(_LOGITS, sampling, position=position) for position in range(50)]
    again = [choose_token(_LOGITS, sampling, position=position) for position in range(49, -1, -1)]
    other = [
        choose_token(_LOGITS, replace(sampling, seed=4), position=position)
        for position in range(50)
    ]

    assert again[::-1] == draws
    assert other != draws


def test_noise_differs_from_token_to_token_and_draw_to_draw() -> None:
    noise = torch.stack(
        [gumbel_noise(seed, position, 50) for seed in range(9) for position in range(9)]
    )

    # The mean of Gumbel noise is Euler's constant, its variance pi**2 / 6;
    # 4050 numbers: 4 * sqrt(1.645 / 4050) = 0.081
    assert float(noise.mean()) == pytest.approx(0.5772, abs=0.081)
    assert noise.isfinite().all()
    assert len(set(noise.flatten().tolist())) == noise.numel()


def test_seeds_of_any_size_and_sign_are_keys() -> None:
    noises = {float(gumbel_noise(seed, 0, 1)) for seed in (0, 1, -1, 2**63, 2**64 - 2)}

    assert len(noises) == 5


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(top_p=0.9), Sampling(top_k=500)])
def test_logits_that_round_otherwise_hardly_ever_change_a_draw(sampling: Sampling) -> None:
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(5000, generator=generator)
    other = logits + 1e-5 * torch.randn(5000, generator=generator)

    n_changed = sum(
        choose_token(logits, sampling, position=n) != choose_token(other, sampling, position=n)
        for n in range(300)
    )

    # Two scores come as close as 1e-5 in about one draw of 50,000.
    assert n_changed <= 1


def test_a_token_without_probability_is_never_drawn() -> None:
    logits = torch.tensor([-torch.inf, 0.0, -torch.inf])

    assert {choose_token(logits, Sampling(), position=n) for n in range(200)} == {1}
