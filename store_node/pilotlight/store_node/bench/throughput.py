"""Measures our step loop beside that of transformers, and prefills beside plain passes."""

from __future__ import annotations

import math
import random
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from pilotlight.process.bench.children import Child, child_environ
from pilotlight.process.bench.errors import named
from pilotlight.process.progress import StepProgress
from pilotlight.store_node.bench import children
from pilotlight.store_node.bench.messages import Batch, BatchDone, Prefill, PrefillDone, Ready

CONCURRENCIES = (1, 4, 12)
PREFILLS_PER_ROUND = {64: 8, 256: 4, 1024: 2}
"""By the tokens of the prompt; the shorter it is, the more a disturbance weighs."""

_PROMPT_TOKENS = (40, 56)
_WARM_TOKENS = 8
# The first of a model's ids are often special ones, and the smallest vocabulary has more.
_IDS = (5, 1000)


@dataclass(frozen=True, slots=True, kw_only=True)
class ThroughputPlan:
    """What is to be run, and how often."""

    directories: Mapping[str, Path]
    repetitions: int
    answer_tokens: int
    threads: int
    seed: int = 0
    """Of prompts and order."""

    @property
    def n_steps(self) -> int:
        """Return how many measurements there are, those that don't count among them."""
        each = 2 * len(CONCURRENCIES) + len(PREFILLS_PER_ROUND)
        return len(self.directories) * each * (self.repetitions + 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Race:
    """The same prompts through both step loops."""

    concurrency: int
    ours: BatchDone
    theirs: BatchDone


@dataclass(frozen=True, slots=True, kw_only=True)
class Throughput:
    """What was measured with one model."""

    races: Sequence[Race]
    prefills: Mapping[int, Sequence[PrefillDone]]
    """By the tokens of the prompt."""


async def measure_throughput(plan: ThroughputPlan, progress: StepProgress) -> dict[str, Throughput]:
    """Return the races of each model; a first round, in which all is warmed, does not count.

    Raises:
        BenchFailed: something did not do what it should.
    """
    found: dict[str, Throughput] = {}
    for name, directory in plan.directories.items():
        progress.begin(f"throughput of {name}")
        with named(name):
            async with _running_track(plan, directory, progress) as track:
                await track.run(_WARM_TOKENS)
                laps = [await track.run(plan.answer_tokens) for _ in range(plan.repetitions)]
        found[name] = Throughput(
            races=[race for lap in laps for race in lap.races],
            prefills={
                n: [done for lap in laps for done in lap.prefills[n]] for n in laps[0].prefills
            },
        )
    return found


@asynccontextmanager
async def _running_track(
    plan: ThroughputPlan, directory: Path, progress: StepProgress
) -> AsyncGenerator[_Track]:
    environ = child_environ(plan.threads)
    arguments = (str(directory), str(max(CONCURRENCIES)))
    async with children.running("our_loop", *arguments, environ=environ) as ours:
        # Only weights that fit their model are the other's affair: it would fill up the rest.
        bound = await ours.receive(Ready)
        async with children.running("their_loop", str(directory), environ=environ) as theirs:
            await theirs.receive(Ready)
            track = _Track(ours, theirs, random.Random(plan.seed), progress)
            track.prompt_tokens = [
                n for n in PREFILLS_PER_ROUND if n < (bound.context_tokens or math.inf)
            ]
            yield track


class _Track:
    """Both loops of one model."""

    def __init__(
        self, ours: Child, theirs: Child, rng: random.Random, progress: StepProgress
    ) -> None:
        self._ours = ours
        self._theirs = theirs
        self._rng = rng
        self._progress = progress
        self.prompt_tokens: Sequence[int] = ()
        """Lengths of prompts to compute that fit the model."""

    async def run(self, answer_tokens: int) -> Throughput:
        """Run everything once."""
        return Throughput(
            races=[await self._race(n, answer_tokens) for n in CONCURRENCIES],
            prefills={n: await self._prefill(n) for n in self.prompt_tokens},
        )

    async def _race(self, concurrency: int, answer_tokens: int) -> Race:
        """Run the same prompts through both loops, whichever is first."""
        prompts = tuple(
            self._prompt(self._rng.randint(*_PROMPT_TOKENS)) for _ in range(concurrency)
        )
        batch = Batch(prompts=prompts, max_tokens=answer_tokens)
        done: dict[Child, BatchDone] = {}
        for child in self._rng.sample((self._ours, self._theirs), 2):
            done[child] = await child.ask(batch, BatchDone)
            self._progress.advance(1)
        return Race(concurrency=concurrency, ours=done[self._ours], theirs=done[self._theirs])

    async def _prefill(self, n_tokens: int) -> list[PrefillDone]:
        done = [
            await self._ours.ask(Prefill(prompt_ids=self._prompt(n_tokens)), PrefillDone)
            for _ in range(PREFILLS_PER_ROUND[n_tokens])
        ]
        self._progress.advance(1)
        return done

    def _prompt(self, n_tokens: int) -> tuple[int, ...]:
        return tuple(self._rng.randrange(*_IDS) for _ in range(n_tokens))
