"""Logit bias and penalties."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from pilotlight.store_node.engines import Extension, Progress, Work
from pilotlight.store_node.engines.transformers.penalties import Penalties
from pilotlight.store_node.protocol import RequestId, Sampling

_LOGITS = torch.tensor([2.0, -1.0, 0.5, 4.0])


def _progress(
    *, prompt_ids: tuple[int, ...] = (0,), is_held: bool = False, **sampling: Any
) -> Progress:
    work = Work(
        request_id=RequestId("a"),
        attempt=1,
        prompt_ids=prompt_ids,
        emitted_ids=(),
        sampling=Sampling(**{"max_tokens": 50, **sampling}),
        is_held=is_held,
    )
    return Progress(work, context_tokens=100, vocabulary=4)


def _accept(progress: Progress, *token_ids: int) -> Progress:
    for token_id in token_ids:
        progress.accept(token_id)
    return progress


def test_a_request_without_wishes_gets_the_logits_as_they_are() -> None:
    progress = _accept(_progress(repetition_penalty=1.0), 3, 3)

    assert Penalties(progress).apply(_LOGITS) is _LOGITS


def test_logit_bias_is_added() -> None:
    changed = Penalties(_progress(logit_bias={1: 3.0, 3: -100.0})).apply(_LOGITS)

    assert changed.tolist() == [2.0, 2.0, 0.5, -96.0]
    assert _LOGITS.tolist() == [2.0, -1.0, 0.5, 4.0]


def test_presence_counts_once_and_frequency_every_time_and_neither_the_prompt() -> None:
    progress = _accept(
        _progress(prompt_ids=(0, 0, 2), presence_penalty=0.5, frequency_penalty=0.25), 3, 1, 3
    )

    changed = Penalties(progress).apply(_LOGITS)

    # -1 - 0.5 - 0.25; 4 - 0.5 - 2 * 0.25
    assert changed.tolist() == [2.0, -1.75, 0.5, 3.0]


def test_repetition_divides_what_is_positive_and_multiplies_the_rest_prompt_included() -> None:
    progress = _accept(_progress(prompt_ids=(0, 1), repetition_penalty=2.0), 3, 3)

    changed = Penalties(progress).apply(_LOGITS)

    assert changed.tolist() == [1.0, -2.0, 0.5, 2.0]


def test_bias_comes_first_then_repetition_then_the_others() -> None:
    progress = _accept(
        _progress(logit_bias={3: 2.0}, repetition_penalty=2.0, presence_penalty=1.0), 3
    )

    # (4 + 2) / 2 - 1
    assert Penalties(progress).apply(_LOGITS)[3] == 2.0


def test_tokens_count_as_they_come() -> None:
    progress = _progress(frequency_penalty=1.0)
    penalties = Penalties(progress)

    first = penalties.apply(_LOGITS)[3].item()
    progress.accept(3)
    second = penalties.apply(_LOGITS)[3].item()

    assert (first, second) == (4.0, 3.0)


@pytest.mark.parametrize("rounds", [((3, 1, 3),), ((3,), (1, 3))], ids=["at-once", "in-rounds"])
def test_a_resumed_request_is_penalised_as_if_it_had_stayed(
    rounds: tuple[tuple[int, ...], ...],
) -> None:
    wishes: dict[str, Any] = {
        "presence_penalty": 0.5,
        "frequency_penalty": 0.5,
        "repetition_penalty": 1.5,
    }
    stayed = Penalties(_accept(_progress(prompt_ids=(0, 2), **wishes), 3, 1, 3))
    resumed = _progress(prompt_ids=(0, 2), is_held=True, **wishes)
    penalties = Penalties(resumed)
    extension = Extension(request_id=RequestId("a"), attempt=2, emitted_ids=(), is_held=True)

    for emitted_ids in rounds:
        resumed.extend(dataclasses.replace(extension, emitted_ids=emitted_ids))
        penalties.apply(_LOGITS)

    assert penalties.apply(_LOGITS).tolist() == stayed.apply(_LOGITS).tolist()
