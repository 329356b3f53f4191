"""What is measured beside what: the ways of each part, in rounds."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path

from pilotlight.native_loader.bench.ablations import STEPS, ablation_command
from pilotlight.native_loader.bench.checkpoints import Source, expected_digest
from pilotlight.native_loader.bench.measuring import (
    Mishaps,
    Way,
    device_command,
    measure,
    our_command,
    peer_command,
)
from pilotlight.native_loader.bench.messages import Held
from pilotlight.native_loader.bench.peers import Environment, Peer
from pilotlight.native_loader.bench.raw_readers import RawReader
from pilotlight.native_loader.bench.recipes import (
    SAFETENSORS_LAYOUTS,
    TINY,
    Adapters,
    Layout,
    Llama,
)
from pilotlight.native_loader.bench.runs import EACH, FIO, LINK, OURS, SLICED, Run
from pilotlight.process.bench.children import Child, child_environ, python_command
from pilotlight.process.bench.errors import BenchFailed
from pilotlight.process.page_cache import drop_from_page_cache
from pilotlight.process.progress import StepProgress


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """What all parts are measured with."""

    directory: Path
    """Of the checkpoints."""
    environment: Environment
    readers: Sequence[RawReader]
    fio: str | None
    """The program, where it is installed."""
    ablation: Path | None
    """The program of the ablation, where there is one."""
    n_rounds: int
    mishaps: Mishaps

    def tiny(self, layout: Layout) -> Source:
        """Return what is loaded before the clock starts."""
        is_drawn = layout in SAFETENSORS_LAYOUTS
        return Source.of(TINY, Layout.SINGLE if is_drawn else layout, self.directory)


@dataclass(frozen=True, slots=True, kw_only=True)
class Course:
    """Ways that are gone in turn, over and over."""

    part: str
    recipe: Llama | Adapters
    ways: Sequence[Way]


DEGREES = (1, 2, 4, 8)
"""Of tensor parallelism."""

GPU = "cuda:0"

N_DRAM_WAYS = 2
"""Attaching, and the peer that maps the page cache."""


def cold_ways(stage: Stage, recipe: Llama) -> list[Way]:
    """Return ours, the peers and the readers on every layout, from the disk."""
    ways: list[Way] = []
    for layout in SAFETENSORS_LAYOUTS:
        source = Source.of(recipe, layout, stage.directory)
        ways += _reader_ways(stage, source)
        ways += [_our_way(stage, source, loader) for loader in ("pool", "fresh")]
    return ways + [_peer_way(stage, recipe, *each, is_cold=True) for each in _peers(stage)]


def hot_ways(stage: Stage, recipe: Llama) -> list[Way]:
    """Return ours and the peers on the page cache; the disk is not asked."""
    source = Source.of(recipe, Layout.SINGLE, stage.directory)
    ways = [_our_way(stage, source, loader, is_cold=False) for loader in ("pool", "fresh")]
    return ways + [
        _peer_way(stage, recipe, peer, layout, is_cold=False)
        for peer, layout in _peers(stage)
        if layout is not Layout.SHARDED
    ]


def dram_ways(stage: Stage, recipe: Llama, held: Held) -> list[Way]:
    """Return attaching what another process holds, and what the page cache is good for."""
    source = Source.of(recipe, Layout.SINGLE, stage.directory)
    tiny = stage.tiny(Layout.SINGLE)
    layout = json.loads(bytes(held.layout))
    attach = Way(
        loader="attach",
        source=source,
        command=our_command("attach", source, tiny, pool=held.pool, layout=layout),
        is_cold=False,
    )
    return [attach] + [
        _peer_way(stage, recipe, peer, layout, is_cold=False)
        for peer, layout in _peers(stage)
        if (peer.name, layout) == ("safetensors", Layout.SINGLE)
    ]


def adapter_ways(stage: Stage, recipe: Adapters) -> list[Way]:
    """Return loading many adapters: at once where one can, one after another, from the disk."""
    source = Source.of(recipe, Layout.SINGLE, stage.directory)
    ways = [*_reader_ways(stage, source), *_reader_ways(stage, source, is_each=True)]
    ways += [_our_way(stage, source, loader) for loader in ("batch", "fresh-batch", "one-by-one")]
    return ways + [
        _peer_way(stage, recipe, peer, peer.layouts[0], is_cold=True)
        for peer in stage.environment.peers
        if peer.loads_adapters
    ]


def slice_ways(stage: Stage, recipe: Llama) -> list[Way]:
    """Return loading slices for more and more devices, whose bytes are counted."""
    source = Source.of(recipe, Layout.SINGLE, stage.directory)
    tiny = stage.tiny(Layout.SINGLE)
    return [
        Way(
            loader=f"{SLICED}{degree}",
            source=source,
            command=device_command("sliced", source, tiny, degree=degree),
            is_cold=True,
            is_checked=False,
        )
        for degree in DEGREES
    ]


def gpu_ways(stage: Stage, recipe: Llama) -> list[Way]:
    """Return ours, the peers, and the limits of disk and link, on the way to a GPU."""
    source = Source.of(recipe, Layout.SINGLE, stage.directory)
    tiny = stage.tiny(Layout.SINGLE)
    link = python_command(f"{__package__}.link_reader", GPU, str(recipe.size_bytes))
    ours = [
        Way(
            loader=kind,
            source=source,
            command=device_command(kind, source, tiny, device=GPU),
            is_cold=kind != "pool-to-gpu",
        )
        for kind in ("gpu", "fresh-gpu", "pool-to-gpu")
    ]
    peers = [
        _peer_way(stage, recipe, peer, layout, is_cold=True, device=GPU)
        for peer, layout in _peers(stage)
        if layout is peer.layouts[0]
    ]
    limit = Way(loader=LINK, source=source, command=link, is_cold=False, is_checked=False)
    return [*_reader_ways(stage, source), limit, *ours, *peers]


def ablation_ways(stage: Stage, recipe: Llama) -> list[Way]:
    """Return the steps from reading tensors to the pipeline, each by a reader of its own."""
    assert stage.ablation is not None, "it is compiled where it is asked for"
    source = Source.of(recipe, Layout.SINGLE, stage.directory)
    return [
        Way(
            loader=step,
            source=source,
            command=ablation_command(stage.ablation, step, source),
            is_cold=True,
            is_checked=False,
        )
        for step in STEPS
    ]


async def run_rounds(course: Course, stage: Stage, progress: StepProgress) -> list[Run]:
    """Go all ways as often as there are rounds, in an order of chance.

    What is slow for a while is so for all. A peer that fails is told of, and
    measured no further in this part.

    Raises:
        BenchFailed: one of ours or of the readers failed.
    """
    digest = expected_digest(course.recipe, stage.directory)
    failed = stage.mishaps.failed
    rng = random.Random(0)
    runs: list[Run] = []
    for number in range(stage.n_rounds):
        for way in rng.sample(course.ways, len(course.ways)):
            progress.begin(f"{course.part}, {way.source.name}, {way.loader}")
            if f"{course.part}, {way.loader}" not in failed:
                runs += await _run(course.part, number, way, stage, digest=digest)
            progress.advance(1)
    for way in course.ways:
        drop_from_page_cache(way.source.files)
    return [run for run in runs if f"{run.part}, {run.loader}" not in failed]


async def _run(part: str, number: int, way: Way, stage: Stage, *, digest: str) -> list[Run]:
    try:
        loaded = await measure(way, stage.mishaps, digest=digest)
    except BenchFailed as exc:
        # A GPU that can't be used, or has no room, is no reason to measure nothing else.
        if part != "gpu" and (way.loader in OURS or not way.is_checked):
            raise
        stage.mishaps.failed[f"{part}, {way.loader}"] = str(exc)
        return []
    return [
        Run(
            part=part,
            checkpoint=way.source.name,
            layout=way.source.layout,
            loader=way.loader,
            round=number,
            loaded=loaded,
        )
    ]


def holding(stage: Stage, recipe: Llama) -> AbstractAsyncContextManager[Child]:
    """Hold a checkpoint in a pool within the block; the child says Held."""
    ((folder, _),) = Source.of(recipe, Layout.SINGLE, stage.directory).groups
    command = python_command(f"{__package__}.holding", str(folder))
    return Child.running("holding", command, environ=child_environ(1))


def _our_way(stage: Stage, source: Source, loader: str, *, is_cold: bool = True) -> Way:
    tiny = stage.tiny(source.layout)
    return Way(
        loader=loader,
        source=source,
        command=our_command(loader, source, tiny, use_page_cache=not is_cold),
        is_cold=is_cold,
    )


def _peers(stage: Stage) -> list[tuple[Peer, Layout]]:
    return [
        (peer, layout)
        for peer in stage.environment.peers
        if peer.loads_models
        for layout in peer.layouts
    ]


def _peer_way(
    stage: Stage,
    recipe: Llama | Adapters,
    peer: Peer,
    layout: Layout,
    *,
    is_cold: bool,
    device: str = "cpu",
) -> Way:
    source = Source.of(recipe, layout, stage.directory)
    python = stage.environment.python
    return Way(
        loader=peer.name,
        source=source,
        command=peer_command(python, peer.name, source, stage.tiny(layout), device=device),
        is_cold=is_cold,
    )


def _reader_ways(stage: Stage, source: Source, *, is_each: bool = False) -> list[Way]:
    """Return the independent readers of a source's files."""
    ways = [
        Way(
            loader=reader.name + (EACH if is_each else ""),
            source=source,
            command=reader.command(source.files, is_each=is_each),
            is_cold=True,
            is_checked=False,
        )
        for reader in stage.readers
    ]
    if stage.fio is None or len(source.files) > 1:
        return ways
    command = python_command(f"{__package__}.fio_reader", stage.fio, str(source.files[0]))
    fio = Way(loader=FIO, source=source, command=command, is_cold=True, is_checked=False)
    return [*ways, fio]
