"""Compares the outputs of tiny models.

Run as `python -m pilotlight.store_node.bench.comparing PARENT_PID DIRECTORY`, where
the models are made when they are first asked for.
"""
# pyright: basic
# transformers comes without types.

from __future__ import annotations

import math
import os
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from pilotlight.native_loader import AttachedWeights, Checkpoint
from pilotlight.process.bench.answers import Answers
from pilotlight.store_node.bench import near_ties
from pilotlight.store_node.bench.equality import MOST_AT_ONCE, Difference, Model, compare_outputs
from pilotlight.store_node.bench.loaded import loaded, setup_of
from pilotlight.store_node.bench.making import make_missing
from pilotlight.store_node.bench.messages import Compare, Compared, Differing, Ready
from pilotlight.store_node.bench.recipes import TINY, TINY_CONTEXT_TOKENS, TINY_VOCABULARY
from pilotlight.store_node.engines.engine import Engine
from pilotlight.store_node.engines.transformers import TransformersEngine

LIMITS = Model(vocabulary=TINY_VOCABULARY, context_tokens=TINY_CONTEXT_TOKENS)

# Prompts of tiny models are short, and are to be cut nevertheless.
_OPTIONS = {"prefill_chunk": "16"}


def compare(asked: Compare, directory: Path) -> Compared:
    """Compare one model's outputs, and judge what differs."""
    (recipe,) = (each for each in TINY if each.name == asked.recipe)
    make_missing([recipe], directory)
    folder = directory / recipe.name
    with bound_engine(folder, dtype=asked.dtype) as engine:
        comparison = compare_outputs(engine, LIMITS, n_requests=asked.n_requests, seed=asked.seed)
    return Compared(
        n_requests=comparison.n_requests,
        n_outputs=comparison.n_compared,
        n_cancelled=comparison.n_cancelled,
        differing=tuple(_judge(each, folder, dtype=asked.dtype) for each in comparison.differences),
    )


@contextmanager
def bound_engine(folder: Path, *, dtype: str) -> Generator[Engine]:
    """Run our engine on a checkpoint, for as many requests at once as a crowd has."""
    engine = TransformersEngine()
    engine.prepare(
        setup_of(
            folder,
            threads=torch.get_num_threads(),
            concurrency=MOST_AT_ONCE,
            dtype=dtype,
            options=_OPTIONS,
        )
    )
    with loaded(Checkpoint.open(folder)) as held:
        engine.bind(AttachedWeights(held.fd, held.layout))
        yield engine


def _judge(difference: Difference, folder: Path, *, dtype: str) -> Differing:
    auto: Any = AutoModelForCausalLM
    model = auto.from_pretrained(folder, dtype=getattr(torch, dtype))
    margin = near_ties.margin(model, LIMITS, difference)
    return Differing(
        request=difference.work.request_id,
        way=difference.way,
        seq=difference.seq,
        expected_id=difference.expected_id,
        found_id=difference.found_id,
        margin=margin if math.isfinite(margin) else None,
    )


def main() -> None:
    """Compare what is asked for."""
    answers = Answers()
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    directory = Path(sys.argv[2])
    directory.mkdir(parents=True, exist_ok=True)
    answers.say(Ready())
    answers.serve(Compare, lambda asked: answers.say(compare(asked, directory)))


if __name__ == "__main__":
    main()
