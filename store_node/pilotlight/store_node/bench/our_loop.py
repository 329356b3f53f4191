"""Our step loop, driven without a node.

Run as `python -m pilotlight.store_node.bench.our_loop PARENT_PID DIRECTORY CONCURRENCY`.
"""
# pyright: basic
# transformers comes without types.

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from pilotlight.native_loader import AttachedWeights, Checkpoint
from pilotlight.process.bench.answers import Answers
from pilotlight.store_node.bench.forks import answer_once
from pilotlight.store_node.bench.from_pretrained import last_logits
from pilotlight.store_node.bench.loaded import loaded, setup_of
from pilotlight.store_node.bench.messages import Batch, BatchDone, Prefill, PrefillDone, Ready
from pilotlight.store_node.engines.engine import Engine, Work
from pilotlight.store_node.engines.transformers import TransformersEngine
from pilotlight.store_node.protocol.values import RequestId, Sampling


def run_batch(engine: Engine, batch: Batch) -> BatchDone:
    """Admit all prompts, and step until all have their tokens."""
    outputs = {RequestId(str(number)): list[int]() for number in range(len(batch.prompts))}
    sampling = Sampling(temperature=0.0, max_tokens=batch.max_tokens)
    began = time.monotonic()
    for request_id, prompt_ids in zip(outputs, batch.prompts, strict=True):
        engine.admit(
            Work(
                request_id=request_id,
                attempt=1,
                prompt_ids=prompt_ids,
                emitted_ids=(),
                sampling=sampling,
            )
        )
    while engine.is_busy:
        for emission in engine.step():
            outputs[emission.request_id] += emission.token_ids
    seconds = time.monotonic() - began
    return BatchDone(seconds=seconds, outputs=tuple(map(tuple, outputs.values())))


class Prefills:
    """A prompt's first token, through the engine and by the model alone."""

    def __init__(self, engine: Engine, directory: Path) -> None:
        auto: Any = AutoModelForCausalLM
        self._engine = engine
        self._model = auto.from_pretrained(directory)
        self._is_engine_first = False

    def run(self, asked: Prefill) -> PrefillDone:
        """Do it both ways, in turn one and the other first."""
        self._is_engine_first = not self._is_engine_first
        seconds = {True: 0.0, False: 0.0}
        for is_engine in (self._is_engine_first, not self._is_engine_first):
            began = time.monotonic()
            if is_engine:
                answer_once(self._engine, asked.prompt_ids)
            else:
                int(last_logits(self._model, asked.prompt_ids).argmax())
            seconds[is_engine] = time.monotonic() - began
        return PrefillDone(engine_seconds=seconds[True], plain_seconds=seconds[False])


def main() -> None:
    """Bind the engine, then run what is asked for."""
    answers = Answers()
    directory, concurrency = Path(sys.argv[2]), int(sys.argv[3])
    threads = int(os.environ["OMP_NUM_THREADS"])
    torch.set_num_threads(threads)
    engine = TransformersEngine()
    engine.prepare(setup_of(directory, threads=threads, concurrency=concurrency))
    with loaded(Checkpoint.open(directory)) as held:
        offer = engine.bind(AttachedWeights(held.fd, held.layout))
        prefills = Prefills(engine, directory)

        def handle(asked: Batch | Prefill) -> None:
            if isinstance(asked, Batch):
                answers.say(run_batch(engine, asked))
            else:
                answers.say(prefills.run(asked))

        answers.say(Ready(context_tokens=offer.context_tokens))
        answers.serve(Batch | Prefill, handle)


if __name__ == "__main__":
    main()
