"""One measurement: a fresh process, files where they should be, and proof of it."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pilotlight.native_loader.bench.checkpoints import Source
from pilotlight.native_loader.bench.messages import Go, Loaded, Ready
from pilotlight.process.bench.children import Child, child_environ, python_command
from pilotlight.process.bench.errors import BenchFailed, named
from pilotlight.process.home import home_directory
from pilotlight.process.page_cache import bring_into_page_cache, drop_from_page_cache

COLD_SHARE = 0.98
"""Of the bytes must come from the disk; the kernel keeps a page now and then."""
LIBRARY_VARIABLE = "PILOTLIGHT_CUDA_LIBRARY"
"""Says which CUDA driver is loaded."""

_TRIES = 3
_WARM_SHARE = 1.2
"""Of a checkpoint's size is the memory that is made ready beforehand."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """One loader, or reader, and what it loads."""

    loader: str
    """As reports name it."""
    source: Source
    command: Sequence[str]
    is_cold: bool
    is_checked: bool = True
    """False for who gives no tensors, but reads bytes."""


@dataclass(slots=True, kw_only=True)
class Mishaps:
    """What did not go as it should have, told at the end."""

    thrown_away: dict[str, int] = field(default_factory=dict[str, int])
    """Runs that were thrown away, by loader."""
    failed: dict[str, str] = field(default_factory=dict[str, str])
    """Loaders that failed in a part, or gave other bytes, and why; it ended there for them."""


async def measure(way: Way, mishaps: Mishaps, *, digest: str) -> Loaded:
    """Return how one run went, in a process of its own.

    One that should have been cold and was not is thrown away, and done again.

    Raises:
        BenchFailed: it failed, gave other tensors than those of that digest, or was
            not cold every time.
    """
    n_read: list[int] = []
    with named(f"{way.loader}, {way.source.name}, {way.source.layout}"):
        while len(n_read) < _TRIES:
            loaded = await _run(way)
            if way.is_checked and loaded.digest != digest:
                raise BenchFailed("gave other tensors than were written")
            if is_proven(way, loaded):
                return loaded
            n_read.append(loaded.bytes_read)
            mishaps.thrown_away[way.loader] = mishaps.thrown_away.get(way.loader, 0) + 1
        raise BenchFailed(
            f"of {way.source.size_bytes:,d} bytes, {max(n_read):,d} came from the disk, where"
            f" all should have, {_TRIES} times in a row"
        )


async def _run(way: Way) -> Loaded:
    # What is known of disks is kept where this process's loads keep it.
    kept = {"PILOTLIGHT_HOME": str(home_directory(os.environ))}
    if library := os.environ.get(LIBRARY_VARIABLE):
        kept[LIBRARY_VARIABLE] = library
    environ = child_environ(os.cpu_count() or 1) | kept
    async with Child.running(way.loader, way.command, environ=environ) as child:
        await child.receive(Ready)
        place(way.source.files, is_cold=way.is_cold)
        loaded = await child.ask(Go(), Loaded)
    if way.is_cold:
        # Memory that is free at once is the same for whoever comes next.
        drop_from_page_cache(way.source.files)
    return loaded


def place(files: Sequence[Path], *, is_cold: bool) -> None:
    """Have the page cache hold nothing of the files, or all of them."""
    if not is_cold:
        bring_into_page_cache(files)
        return
    # Pages that another processor was just about to file away leave with the second drop.
    for _ in range(2):
        drop_from_page_cache(files)


def is_proven(way: Way, loaded: Loaded) -> bool:
    """Whether the bytes came from the disk, where they should have.

    What is hot lies in the page cache; whether a loader takes it from there is its affair.
    """
    return not way.is_cold or loaded.bytes_read >= COLD_SHARE * way.source.size_bytes


def our_command(loader: str, source: Source, tiny: Source, **more: Any) -> list[str]:
    """Return what loads a source in one of our ways."""
    has_pool = loader in ("pool", "batch", "one-by-one")
    question = _question(loader, source, tiny, needs_memory=not has_pool)
    module = f"{__package__}.our_load"
    return python_command(module, json.dumps({**question, "use_page_cache": False, **more}))


def device_command(kind: str, source: Source, tiny: Source, **more: Any) -> list[str]:
    """Return what loads a source onto devices, in one of our ways."""
    question = _question(kind, source, tiny, needs_memory=kind == "sliced")
    module = f"{__package__}.device_load"
    return python_command(module, json.dumps({**question, "kind": kind, **more}))


def peer_command(
    python: str, loader: str, source: Source, tiny: Source, *, device: str = "cpu"
) -> list[str]:
    """Return what loads a source with a peer."""
    script = Path(__file__).with_name("peer_loads.py")
    question = _question(loader, source, tiny, needs_memory=True)
    return [python, "-I", str(script), json.dumps({**question, "device": device})]


def _question(
    loader: str, source: Source, tiny: Source, *, needs_memory: bool
) -> Mapping[str, Any]:
    return {
        "parent_pid": os.getpid(),
        "loader": loader,
        "groups": source.asked(),
        "warm_up": tiny.asked(),
        "warm_bytes": int(_WARM_SHARE * source.size_bytes) if needs_memory else 0,
    }
