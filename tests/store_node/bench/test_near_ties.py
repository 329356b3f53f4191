"""Near ties, on a model small enough to know its logits."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from pilotlight.store_node.bench import near_ties
from pilotlight.store_node.bench.equality import Difference, Model
from pilotlight.store_node.bench.from_pretrained import last_logits
from pilotlight.store_node.bench.making import write_checkpoint
from pilotlight.store_node.bench.recipes import TINY, TINY_CONTEXT_TOKENS, TINY_VOCABULARY
from pilotlight.store_node.engines.engine import Work
from pilotlight.store_node.protocol import RequestId, Sampling

LIMITS = Model(vocabulary=TINY_VOCABULARY, context_tokens=TINY_CONTEXT_TOKENS)
PROMPT_IDS = (3, 5, 8, 13)
BEFORE = (21, 34)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder: Path = tmp_path_factory.mktemp("tiny")
    write_checkpoint(TINY[0], folder)
    auto: Any = AutoModelForCausalLM
    return auto.from_pretrained(folder)


@pytest.fixture
def logits(model: Any) -> torch.Tensor:
    return last_logits(model, (*PROMPT_IDS, *BEFORE))


def difference(
    expected_id: int | None, found_id: int | None, sampling: Sampling | None = None
) -> Difference:
    work = Work(
        request_id=RequestId("r"),
        attempt=1,
        prompt_ids=PROMPT_IDS,
        emitted_ids=(),
        sampling=sampling or Sampling(temperature=0.0),
    )
    return Difference(
        work=work,
        way="together",
        seq=len(BEFORE),
        ids_before=BEFORE,
        expected_id=expected_id,
        found_id=found_id,
    )


def test_greedy_tokens_are_apart_by_the_distance_of_their_logits(
    model: Any, logits: torch.Tensor
) -> None:
    first, second = (int(token_id) for token_id in logits.topk(2).indices)
    distance = float((logits[first] - logits[second]) / logits.std())

    for expected_id, found_id in ((first, second), (second, first)):
        margin = near_ties.margin(model, LIMITS, difference(expected_id, found_id))
        assert margin == pytest.approx(distance, rel=1e-2)


def test_an_end_where_the_other_went_on_is_no_tie(model: Any, logits: torch.Tensor) -> None:
    first = int(logits.argmax())

    assert near_ties.margin(model, LIMITS, difference(first, None)) == math.inf
    assert near_ties.margin(model, LIMITS, difference(None, first)) == math.inf


def test_penalties_move_tokens_nearer(model: Any, logits: torch.Tensor) -> None:
    first, second = (int(token_id) for token_id in logits.topk(2).indices)
    distance = float(logits[first] - logits[second])
    # All but a thousandth of the distance is made up for.
    sampling = Sampling(temperature=0.0, logit_bias={second: 0.999 * distance})

    margin = near_ties.margin(model, LIMITS, difference(first, second, sampling))

    assert margin == pytest.approx(0.001 * distance / float(logits.std()), rel=0.05)


def test_a_token_at_the_edge_of_the_nucleus_is_near(model: Any, logits: torch.Tensor) -> None:
    # With one candidate the noise has no say: the second token comes only by being likelier.
    first, second = (int(token_id) for token_id in logits.topk(2).indices)
    distance = float((logits[first] - logits[second]) / logits.std())
    sampling = Sampling(temperature=1.0, top_k=1)

    margin = near_ties.margin(model, LIMITS, difference(first, second, sampling))

    assert margin == pytest.approx(distance, rel=1e-2)
