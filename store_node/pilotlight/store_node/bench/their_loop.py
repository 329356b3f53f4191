"""The continuous batching of transformers, as fast as it can be had.

Run as `python -m pilotlight.store_node.bench.their_loop PARENT_PID DIRECTORY`. Its
manager persists from one call to the next, so that its threads and memory are
there when the clock begins, and is sized for as many requests as come.
"""
# pyright: basic
# transformers comes without types.

from __future__ import annotations

import os
import sys
import time
from typing import Any

import torch
from transformers import AutoModelForCausalLM, GenerationConfig
from transformers.generation.configuration_utils import ContinuousBatchingConfig

from pilotlight.process.bench.answers import Answers
from pilotlight.store_node.bench.messages import Batch, BatchDone, Ready

# Blocks of 256 tokens, and tokens of a step: more than the requests need.
_BLOCKS = 64
_STEP_TOKENS = 512
_WARM_TOKENS = 2


def run_batch(model: Any, batch: Batch) -> BatchDone:
    """Have a manager made by a first, short call; take the time of the second one."""
    model.destroy_cached_continuous_batching_manager()
    _generate(model, batch, max_tokens=_WARM_TOKENS)
    began = time.monotonic()
    outputs = _generate(model, batch, max_tokens=batch.max_tokens)
    return BatchDone(seconds=time.monotonic() - began, outputs=outputs)


def _generate(model: Any, batch: Batch, *, max_tokens: int) -> tuple[tuple[int, ...], ...]:
    make_config: Any = GenerationConfig
    results = model.generate_batch(
        inputs=[list(prompt) for prompt in batch.prompts],
        generation_config=make_config(
            max_new_tokens=max_tokens, do_sample=False, eos_token_id=-1, pad_token_id=0
        ),
        continuous_batching_config=ContinuousBatchingConfig(
            num_blocks=_BLOCKS,
            max_batch_tokens=_STEP_TOKENS,
            max_requests_per_batch=len(batch.prompts),
        ),
        progress_bar=False,
        persistent_manager=True,
    )
    return tuple(tuple(result.generated_tokens) for result in results.values())


def main() -> None:
    """Load the model, then run what is asked for."""
    answers = Answers()
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    auto: Any = AutoModelForCausalLM
    model = auto.from_pretrained(sys.argv[2]).eval()
    answers.say(Ready())
    answers.serve(Batch, lambda asked: answers.say(run_batch(model, asked)))


if __name__ == "__main__":
    main()
