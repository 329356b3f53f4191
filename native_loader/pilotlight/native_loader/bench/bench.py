"""`pilotlight bench load` from its checkpoints to its report."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import click

from pilotlight.native_loader.bench import checkpoints, parts, peers, plots, report
from pilotlight.native_loader.bench.checkpoints import make_missing
from pilotlight.native_loader.bench.measuring import LIBRARY_VARIABLE, Mishaps
from pilotlight.native_loader.bench.messages import Held
from pilotlight.native_loader.bench.parts import Course, Stage, run_rounds
from pilotlight.native_loader.bench.peers import Environment
from pilotlight.native_loader.bench.raw_readers import NoCompiler, RawReader, compiled, raw_readers
from pilotlight.native_loader.bench.recipes import (
    ADAPTERS,
    EVERY,
    LARGE,
    SAFETENSORS_LAYOUTS,
    SHORT,
    SHORT_ADAPTERS,
    SMALL,
    TINY,
    Adapters,
    Layout,
    Llama,
    Recipe,
    missing_bytes,
)
from pilotlight.native_loader.bench.runs import Measured, Run
from pilotlight.native_loader.memory.memory_limits import available_memory_bytes
from pilotlight.process.bench.documents import require_writable, write_document
from pilotlight.process.bench.errors import BenchFailed
from pilotlight.process.bench.machine import machine_facts
from pilotlight.process.bench.running import only_bench, run_until_told
from pilotlight.process.progress import show_steps
from pilotlight.process.quantities import format_bytes

_CHECKPOINTS = "checkpoints"
_PEERS = "peers"
_TOOLS = "tools"

_GPU_CONTROL = "/dev/nvidiactl"

MEMORY_SHARE = 3
"""Times the largest checkpoint's size there has to be memory: two copies and the page cache."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is to be measured."""

    home: Path
    """Checkpoints and the peers' environment are made and kept below it."""
    parts: Sequence[str]
    n_rounds: int
    is_short: bool
    keep: bool
    json_file: Path | None
    plot_directory: Path | None

    @property
    def models(self) -> Sequence[Llama]:
        """Return the models' checkpoints, the largest first."""
        return (SHORT,) if self.is_short else (LARGE, SMALL)

    @property
    def adapters(self) -> Adapters:
        """Return the adapters."""
        return SHORT_ADAPTERS if self.is_short else ADAPTERS


def run_bench(plan: Plan) -> None:
    """Measure, print, write. Nothing is left running or half made, whatever happens.

    Raises:
        BenchFailed, LoaderError: with the reason.
        KeyboardInterrupt: it was told to stop, and has.
    """
    if plan.json_file is not None:
        require_writable(plan.json_file)
    machine = machine_facts()
    with only_bench(plan.home) as directory:
        try:
            measured = run_until_told(_measure(plan, directory))
        finally:
            if not plan.keep:
                _forget(directory)
    report.print_report(measured)
    if plan.plot_directory is not None:
        for file in plots.write_plots(measured, plan.plot_directory):
            click.echo(f"wrote {file}", err=True)
    if plan.json_file is not None:
        settings = {
            "runs": plan.n_rounds,
            "is_short": plan.is_short,
            "parts": list(plan.parts),
        }
        document = report.as_document(measured, machine=machine, settings=settings)
        write_document(document, plan.json_file)


async def _measure(plan: Plan, directory: Path) -> Measured:
    kept, tools = directory / _CHECKPOINTS, directory / _TOOLS
    notes: list[str] = []
    _require_memory(plan)
    _require_room(plan, directory)
    environment = await _environment(plan, directory)
    await _make(plan, environment, kept)
    stage = Stage(
        directory=kept,
        environment=environment,
        readers=_readers(tools, notes),
        fio=shutil.which("fio"),
        ablation=_ablation(tools, plan, notes),
        n_rounds=plan.n_rounds,
        mishaps=Mishaps(),
    )
    if "gpu" in plan.parts and not has_gpu():
        notes.append("there is no GPU here, and no figure of one")
    runs, held = await _run_parts(plan, stage)
    recipes: list[Recipe] = [*plan.models, plan.adapters]
    return Measured(
        runs=runs,
        sizes_bytes={recipe.name: recipe.size_bytes for recipe in recipes},
        versions=environment.versions,
        missing=environment.missing,
        mishaps=stage.mishaps,
        held_bytes=held.pool_bytes if held else 0,
        held_huge_bytes=held.huge_bytes if held else 0,
        notes=notes,
    )


async def _run_parts(plan: Plan, stage: Stage) -> tuple[list[Run], Held | None]:
    courses = _courses(plan, stage)
    n_dram = parts.N_DRAM_WAYS if "dram" in plan.parts else 0
    n_ways = sum(len(course.ways) for course in courses) + n_dram
    runs: list[Run] = []
    held: Held | None = None
    with show_steps("loads", n_ways * plan.n_rounds) as progress:
        for course in courses:
            runs += await run_rounds(course, stage, progress)
        if n_dram:
            largest = plan.models[0]
            async with parts.holding(stage, largest) as child:
                held = await child.receive(Held)
                ways = parts.dram_ways(stage, largest, held)
                course = Course(part="dram", recipe=largest, ways=ways)
                runs += await run_rounds(course, stage, progress)
    return runs, held


def _courses(plan: Plan, stage: Stage) -> list[Course]:
    """Return what is measured, but for what needs a pool in another process."""
    large, adapters = plan.models[0], plan.adapters
    courses: list[Course] = []
    for model in plan.models:
        if "cold" in plan.parts:
            ways = parts.cold_ways(stage, model)
            courses.append(Course(part="cold", recipe=model, ways=ways))
    if "hot" in plan.parts:
        courses.append(Course(part="hot", recipe=large, ways=parts.hot_ways(stage, large)))
    if "slices" in plan.parts:
        model = plan.models[-1]
        courses.append(Course(part="slices", recipe=model, ways=parts.slice_ways(stage, model)))
    if "gpu" in plan.parts and has_gpu():
        courses.append(Course(part="gpu", recipe=large, ways=parts.gpu_ways(stage, large)))
    if "adapters" in plan.parts:
        ways = parts.adapter_ways(stage, adapters)
        courses.append(Course(part="adapters", recipe=adapters, ways=ways))
    if stage.ablation is not None:
        ways = parts.ablation_ways(stage, large)
        courses.append(Course(part="ablation", recipe=large, ways=ways))
    return courses


async def _environment(plan: Plan, directory: Path) -> Environment:
    if plan.is_short:
        return await peers.own_environment()
    with show_steps("peers", len(peers.PACKAGES)) as progress:
        return await peers.install(directory / _PEERS, progress)


async def _make(plan: Plan, environment: Environment, kept: Path) -> None:
    has_tensorizer = environment.has("tensorizer")
    wanted = [
        (recipe, layout)
        for recipe, layout in _wanted(plan)
        if layout is not Layout.TENSORIZED or has_tensorizer
    ]
    with show_steps("checkpoints", len(wanted)) as progress:
        tensorizer = environment.python if has_tensorizer else None
        await make_missing(wanted, kept, tensorizer=tensorizer, progress=progress)


def _wanted(plan: Plan) -> list[tuple[Recipe, Layout]]:
    """Return all that is to be made, for each recipe what the others are made of first."""
    foreign = (Layout.PICKLED, Layout.TENSORIZED)
    wanted: list[tuple[Recipe, Layout]] = [(TINY, layout) for layout in (Layout.SINGLE, *foreign)]
    if set(plan.parts) - {"adapters"}:
        wanted += [
            (model, layout) for model in plan.models for layout in (*SAFETENSORS_LAYOUTS, *foreign)
        ]
    if "adapters" in plan.parts:
        wanted += [(plan.adapters, layout) for layout in (Layout.SINGLE, *foreign)]
    return wanted


def _require_room(plan: Plan, directory: Path) -> None:
    """Refuse a disk that is too full for what is to be made, before it is.

    Raises:
        BenchFailed: as it says.
    """
    needed_bytes = missing_bytes(_wanted(plan), directory / _CHECKPOINTS)
    if not plan.is_short and not (directory / _PEERS).exists():
        needed_bytes += peers.SIZE_BYTES
    free_bytes = shutil.disk_usage(directory).free
    if needed_bytes > free_bytes:
        raise BenchFailed(
            f"{format_bytes(needed_bytes)} are to be written below {directory}, and"
            f" {format_bytes(free_bytes)} are free; --short needs less"
        )


def _require_memory(plan: Plan) -> None:
    """Refuse a machine that is too small for the largest checkpoint.

    Raises:
        BenchFailed: as it says.
    """
    needed_bytes = MEMORY_SHARE * plan.models[0].size_bytes
    available_bytes = available_memory_bytes()
    if available_bytes is not None and needed_bytes > available_bytes:
        raise BenchFailed(
            f"{format_bytes(needed_bytes)} of memory are needed, and"
            f" {format_bytes(available_bytes)} are available; --short needs less"
        )


def _readers(tools: Path, notes: list[str]) -> list[RawReader]:
    try:
        return raw_readers(tools)
    except NoCompiler as exc:
        found = "fio alone tells" if shutil.which("fio") else "nothing tells"
        notes.append(f"{exc}: {found} the disk's limit")
        return []


def _ablation(tools: Path, plan: Plan, notes: list[str]) -> Path | None:
    if "ablation" not in plan.parts:
        return None
    try:
        return compiled("ablation.c", tools)
    except NoCompiler as exc:
        notes.append(f"{exc}: there is no ablation")
        return None


def has_gpu() -> bool:
    """Whether there may be a GPU; a process of ours that finds none says so."""
    return LIBRARY_VARIABLE in os.environ or Path(_GPU_CONTROL).exists()


def _forget(directory: Path) -> None:
    """Remove all that this bench has made, and nothing else."""
    every = [(recipe, layout) for recipe in EVERY for layout in Layout]
    checkpoints.forget(every, directory / _CHECKPOINTS)
    for name in (_PEERS, _TOOLS):
        shutil.rmtree(directory / name, ignore_errors=True)
