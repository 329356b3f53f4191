"""Compares the outputs of every kind of model, in float64 and in float32."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pilotlight.process.bench.children import child_environ
from pilotlight.process.progress import StepProgress
from pilotlight.store_node.bench import children
from pilotlight.store_node.bench.messages import Compare, Compared, Ready
from pilotlight.store_node.bench.recipes import TINY

DTYPES = ("float64", "float32")
"""In the first one no difference is allowed, in the second one those at near ties."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EqualityPlan:
    """How many requests are to be compared."""

    n_requests: int
    """Of each model, in each dtype."""
    threads: int
    seed: int = 0
    """Of the first model's requests; each model has others."""

    @property
    def n_steps(self) -> int:
        """Return how many comparisons there are."""
        return len(TINY) * len(DTYPES)


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputsOf:
    """One model's comparison."""

    model: str
    dtype: str
    compared: Compared


async def compare_all(
    plan: EqualityPlan, folder: Path, progress: StepProgress
) -> Sequence[OutputsOf]:
    """Return the comparison of each tiny model; they are made below a folder.

    Raises:
        BenchFailed: the engine breaks its contract.
    """
    progress.begin("equality")
    environ = child_environ(plan.threads)
    found: list[OutputsOf] = []
    async with children.running("comparing", str(folder), environ=environ) as child:
        await child.receive(Ready)
        for dtype in DTYPES:
            for number, recipe in enumerate(TINY):
                question = Compare(
                    recipe=recipe.name,
                    dtype=dtype,
                    n_requests=plan.n_requests,
                    seed=plan.seed + number,
                )
                compared = await child.ask(question, Compared)
                found.append(OutputsOf(model=recipe.name, dtype=dtype, compared=compared))
                progress.advance(1)
    return found
