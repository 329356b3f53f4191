"""A process that has imported everything, and forks another one for each thing to measure.

Run as `python -m pilotlight.store_node.bench.forks PARENT_PID DIRECTORY…`. It is to the
parts of a start what a zygote is to its workers: each is measured in a process
that has done nothing else, with the same library imported and warm.
"""

from __future__ import annotations

import gc
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from pilotlight.native_loader import AttachedWeights
from pilotlight.process.bench.answers import Answers
from pilotlight.process.page_cache import bytes_read
from pilotlight.store_node.bench.from_pretrained import first_token
from pilotlight.store_node.bench.loaded import setup_of
from pilotlight.store_node.bench.messages import (
    BindAlone,
    BoundAlone,
    LoadAlone,
    LoadedAlone,
    Ready,
)
from pilotlight.store_node.engines.engine import Engine, Work
from pilotlight.store_node.engines.transformers import TransformersEngine
from pilotlight.store_node.protocol.values import RequestId, Sampling


class ForkFailed(RuntimeError):
    """A forked process ended without an answer."""


def bind_alone(asked: BindAlone, *, forked_at: float) -> BoundAlone:
    """Do what a worker does at a start, one part after another."""
    began = time.monotonic()
    engine: Engine = TransformersEngine()
    engine.prepare(setup_of(Path(asked.directory), threads=asked.threads))
    prepared_at = time.monotonic()
    pool = os.open(asked.pool, os.O_RDONLY)
    opened_at = time.monotonic()
    engine.bind(AttachedWeights(pool, asked.layout))
    bound_at = time.monotonic()
    token_id = answer_once(engine, asked.prompt_ids)
    return BoundAlone(
        fork_seconds=began - forked_at,
        prepare_seconds=prepared_at - began,
        bind_seconds=bound_at - opened_at,
        prefill_seconds=time.monotonic() - bound_at,
        token_id=token_id,
    )


def answer_once(engine: Engine, prompt_ids: Sequence[int]) -> int:
    """Return the greedy first token of a prompt."""
    engine.admit(
        Work(
            request_id=RequestId("first"),
            attempt=1,
            prompt_ids=tuple(prompt_ids),
            emitted_ids=(),
            sampling=Sampling(temperature=0.0, max_tokens=1),
        )
    )
    while engine.is_busy:
        for emission in engine.step():
            if emission.token_ids:
                return emission.token_ids[0]
    raise ForkFailed("the engine gave no token")


def load_alone(asked: LoadAlone) -> LoadedAlone:
    """Load and answer as transformers does."""
    began = time.monotonic()
    token_id = first_token(asked.directory, asked.prompt_ids)
    seconds = time.monotonic() - began
    return LoadedAlone(seconds=seconds, bytes_read=bytes_read(os.getpid()), token_id=token_id)


def main() -> None:
    """Import, then fork for each question."""
    answers = Answers()
    TransformersEngine.preload([Path(directory) for directory in sys.argv[2:]])
    gc.collect()
    # Objects that are never collected are never written to, and so stay shared.
    gc.freeze()
    answers.say(Ready())
    answers.serve(BindAlone | LoadAlone, lambda asked: _fork(answers, asked))


def _fork(answers: Answers, asked: BindAlone | LoadAlone) -> None:
    forked_at = time.monotonic()
    pid = os.fork()
    if not pid:
        answers.attempt(lambda: answers.say(_measure(asked, forked_at=forked_at)))
        os._exit(0)
    _, status = os.waitpid(pid, 0)
    if status:
        raise ForkFailed(f"its process ended with {os.waitstatus_to_exitcode(status)}")


def _measure(asked: BindAlone | LoadAlone, *, forked_at: float) -> BoundAlone | LoadedAlone:
    if isinstance(asked, BindAlone):
        return bind_alone(asked, forked_at=forked_at)
    return load_alone(asked)


if __name__ == "__main__":
    main()
