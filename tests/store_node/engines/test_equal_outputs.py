"""Outputs don't depend on who else runs, nor on where a request was resumed.

The short form of what `pilotlight bench start --only equality` shows.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pilotlight.store_node.bench.comparing import compare
from pilotlight.store_node.bench.equality import NEAR_TIE
from pilotlight.store_node.bench.messages import Compare
from pilotlight.store_node.bench.recipes import TINY

REQUESTS = 24


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return tmp_path_factory.mktemp("tiny")


@pytest.mark.parametrize("model", [recipe.name for recipe in TINY])
def test_in_float64_every_output_is_what_it_is_alone(model: str, directory: Path) -> None:
    asked = Compare(recipe=model, dtype="float64", n_requests=REQUESTS, seed=1)

    compared = compare(asked, directory)

    assert compared.differing == ()
    assert compared.n_outputs > REQUESTS
    assert compared.n_cancelled > 0


@pytest.mark.parametrize("model", [recipe.name for recipe in TINY])
def test_in_float32_outputs_differ_at_near_ties_only(model: str, directory: Path) -> None:
    asked = Compare(recipe=model, dtype="float32", n_requests=REQUESTS, seed=2)

    compared = compare(asked, directory)

    assert len(compared.differing) <= 0.01 * compared.n_outputs
    for each in compared.differing:
        assert each.margin is not None
        assert each.margin <= NEAR_TIE
