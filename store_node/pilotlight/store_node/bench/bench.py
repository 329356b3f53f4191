"""`pilotlight bench start` from its checkpoints to its report."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import click

from pilotlight.native_loader import Checkpoint
from pilotlight.process.bench.children import child_environ
from pilotlight.process.bench.documents import require_writable, write_document
from pilotlight.process.bench.errors import BenchFailed
from pilotlight.process.bench.machine import default_threads, machine_facts
from pilotlight.process.bench.running import RUN_PREFIX, only_bench, run_until_told
from pilotlight.process.progress import show_steps
from pilotlight.process.quantities import format_count
from pilotlight.store_node.bench import children, report
from pilotlight.store_node.bench.messages import Ready
from pilotlight.store_node.bench.outputs import EqualityPlan, OutputsOf, compare_all
from pilotlight.store_node.bench.recipes import SERVED, SHORT, STARTED, Recipe
from pilotlight.store_node.bench.samples import Round
from pilotlight.store_node.bench.starts import StartPlan, measure_starts
from pilotlight.store_node.bench.summaries import Measured
from pilotlight.store_node.bench.throughput import (
    Throughput,
    ThroughputPlan,
    measure_throughput,
)

REQUESTS = 500
SHORT_REQUESTS = 10
"""Of each model, in each dtype."""

ANSWER_TOKENS = 64
SHORT_ANSWER_TOKENS = 16
"""To each prompt, where throughput is measured."""

MOST_THROUGHPUT_ROUNDS = 3
"""Each takes a minute, and hundreds of steps: it is an average already."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is to be measured."""

    home: Path
    """Checkpoints are made and kept below it."""
    parts: Sequence[str]
    own: Sequence[Path]
    """Checkpoints in the place of those that would be made."""
    repetitions: int
    threads: int
    is_short: bool
    json_file: Path | None


def run_bench(plan: Plan) -> None:
    """Measure, print, write. Nothing is left running or lying about, whatever happens.

    Raises:
        BenchFailed, LoaderError: with the reason.
        KeyboardInterrupt: it was told to stop, and has.
    """
    if plan.json_file is not None:
        require_writable(plan.json_file)
    own = {path.resolve().name: Checkpoint.open(path.resolve()) for path in plan.own}
    if len(own) < len(plan.own):
        raise BenchFailed("two of the checkpoints have the same name")
    for checkpoint in own.values():
        if not (checkpoint.path / "config.json").exists():
            raise BenchFailed(f"{checkpoint.path} has no config.json: no engine can run it")
    machine = machine_facts()
    with only_bench(plan.home) as directory:
        measured = run_until_told(_measure(plan, own, directory))
    report.print_report(measured)
    if plan.json_file is not None:
        settings = {
            "repetitions": plan.repetitions,
            "threads": plan.threads,
            "is_short": plan.is_short,
            "parts": list(plan.parts),
        }
        document = report.as_document(measured, machine=machine, settings=settings)
        write_document(document, plan.json_file)


async def _measure(plan: Plan, own: Mapping[str, Checkpoint], directory: Path) -> Measured:
    started = dict(own)
    served = {name: checkpoint.path for name, checkpoint in own.items()}
    if not own:
        kept = directory / "checkpoints"
        recipes = _recipes(plan)
        await _make([*recipes["starts"], *recipes["throughput"]], kept)
        started = {each.name: Checkpoint.open(kept / each.name) for each in recipes["starts"]}
        served = {each.name: kept / each.name for each in recipes["throughput"]}
    with tempfile.TemporaryDirectory(dir=directory, prefix=RUN_PREFIX) as folder:
        return Measured(
            sizes_bytes={name: each.size_bytes for name, each in started.items()},
            starts=await _starts(plan, started, Path(folder)),
            throughput=await _throughput(plan, served),
            outputs=await _equality(plan, Path(folder)),
        )


async def _starts(
    plan: Plan, checkpoints: Mapping[str, Checkpoint], folder: Path
) -> dict[str, list[Round]]:
    if "starts" not in plan.parts:
        return {}
    starts = StartPlan(checkpoints=checkpoints, repetitions=plan.repetitions, threads=plan.threads)
    with show_steps("starts", starts.n_steps) as progress:
        return await measure_starts(starts, folder, progress)


async def _throughput(plan: Plan, directories: Mapping[str, Path]) -> dict[str, Throughput]:
    if "throughput" not in plan.parts:
        return {}
    throughput = ThroughputPlan(
        directories=directories,
        repetitions=min(plan.repetitions, MOST_THROUGHPUT_ROUNDS),
        answer_tokens=SHORT_ANSWER_TOKENS if plan.is_short else ANSWER_TOKENS,
        threads=plan.threads,
    )
    with show_steps("throughput", throughput.n_steps) as progress:
        return await measure_throughput(throughput, progress)


async def _equality(plan: Plan, folder: Path) -> Sequence[OutputsOf]:
    if "equality" not in plan.parts:
        return ()
    equality = EqualityPlan(
        n_requests=SHORT_REQUESTS if plan.is_short else REQUESTS, threads=plan.threads
    )
    with show_steps("equality", equality.n_steps) as progress:
        return await compare_all(equality, folder / "tiny", progress)


def _recipes(plan: Plan) -> dict[str, Sequence[Recipe]]:
    """Return what is to be made for each part that is measured."""
    found: dict[str, Sequence[Recipe]] = {"starts": (), "throughput": ()}
    if "starts" in plan.parts:
        found["starts"] = SHORT if plan.is_short else STARTED
    if "throughput" in plan.parts:
        found["throughput"] = SHORT if plan.is_short else SERVED
    return found


async def _make(recipes: Sequence[Recipe], directory: Path) -> None:
    """Make the checkpoints that are missing, in a process that takes torch along."""
    missing = list(dict.fromkeys(each.name for each in recipes if not each.is_made(directory)))
    if not missing:
        return
    click.echo(f"making {format_count(len(missing), 'checkpoint')} below {directory}", err=True)
    environ = child_environ(default_threads())
    async with children.running("making", str(directory), *missing, environ=environ) as child:
        await child.receive(Ready)
