"""One load of ours in a fresh process.

Run as `python -m pilotlight.native_loader.bench.our_load PARENT_PID QUESTION`; all
but the loaders is `one_load`'s.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from pilotlight.native_loader import (
    CHUNK_BYTES,
    AttachedWeights,
    BatchLoader,
    Checkpoint,
    ChunkPool,
    Loader,
    Slab,
    WeightLayout,
    load,
    load_batch,
)
from pilotlight.native_loader.bench.one_load import Group, Loading, Tensors, serve
from pilotlight.native_loader.loading import known_disks

Question = Mapping[str, Any]

N_ATTACHED = 20
"""So many of what was loaded are attached once more, for the median."""


class PoolLoading(Loading):
    """Loads into a pool that has its memory already, as a node's has."""

    def __init__(self, question: Question) -> None:
        super().__init__(self._load_one)
        self._pool = _pool_for(question["groups"])
        self._loader = Loader(self._pool, disks=known_disks())
        self._use_page_cache = question["use_page_cache"]
        self._held: list[WeightLayout] = []

    def warm_up(self, group: Group) -> None:
        """Load a tiny checkpoint, and forget it."""
        super().warm_up(group)
        self._pool.release([chunk for file in self._held.pop().files for chunk in file.chunks])

    def settle(self) -> None:
        """Note what the pool is made of."""
        self.facts |= _pool_facts(self._pool)
        self.facts["attach_seconds"] = _attach_seconds(self._pool, self._held)

    def _load_one(self, group: Group) -> Tensors:
        checkpoint = Checkpoint.open(group["directory"])
        self._loader.prepare(checkpoint)
        chunks = self._pool.allocate(checkpoint.n_chunks)
        running = self._loader.submit(checkpoint, chunks, use_page_cache=self._use_page_cache)
        # Mapped while the disk is busy.
        layout = WeightLayout.of(checkpoint, chunks, self._pool.chunk_bytes)
        weights = AttachedWeights(self._pool.fd, layout)
        self.facts["bottleneck"] = running.result().bottleneck
        self._held.append(layout)
        return weights.tensors()


class SlabLoading(Loading):
    """Loads many small checkpoints into a pool that has its memory, at once or one by one."""

    def __init__(self, question: Question) -> None:
        is_batch = question["loader"] == "batch"
        super().__init__(
            lambda group: self._loader.load(group["directory"]),
            (lambda groups: [*self._loader.load_all(_paths(groups))]) if is_batch else None,
        )
        self._pool = _pool_for(question["groups"], n_spare=N_ATTACHED)
        self._slab = Slab(self._pool)
        self._loader = BatchLoader(self._slab, disks=known_disks())
        self._groups: Sequence[Group] = question["groups"]

    def settle(self) -> None:
        """Note what the pool is made of, and how soon what lies in it becomes tensors."""
        self.facts |= _pool_facts(self._pool)
        layouts: list[WeightLayout] = []
        with Loader(self._pool, disks=known_disks()) as loader:
            for group in self._groups[:N_ATTACHED]:
                checkpoint = Checkpoint.open(group["directory"])
                places = self._slab.allocate(checkpoint)
                loader.submit(checkpoint, places).result()
                layouts.append(WeightLayout.of(checkpoint, places, self._pool.chunk_bytes))
        self.facts["attach_seconds"] = _attach_seconds(self._pool, layouts)


class AttachLoading(Loading):
    """Weights that lie in another process's pool."""

    def __init__(self, question: Question) -> None:
        super().__init__(lambda _: self._attached())
        self._pool: str = question["pool"]
        self._layout = msgspec.convert(question["layout"], WeightLayout)

    def warm_up(self, group: Group) -> None:
        """Load a tiny checkpoint."""
        load(group["directory"])

    def _attached(self) -> Tensors:
        descriptor = os.open(self._pool, os.O_RDONLY | os.O_CLOEXEC)
        try:
            return AttachedWeights(descriptor, self._layout).tensors()
        finally:
            os.close(descriptor)


def _load_all(groups: Sequence[Group]) -> list[Tensors]:
    return [*load_batch(_paths(groups))]


def _paths(groups: Sequence[Group]) -> list[str]:
    return [group["directory"] for group in groups]


def _pool_for(groups: Sequence[Group], *, n_spare: int = 1) -> ChunkPool:
    """Return a pool with room for checkpoints, and a few more chunks, all of it there."""
    n_chunks = sum(Checkpoint.open(group["directory"]).n_chunks for group in groups)
    pool = ChunkPool((n_chunks + n_spare) * CHUNK_BYTES)
    pool.populate()
    return pool


def _pool_facts(pool: ChunkPool) -> dict[str, Any]:
    return {"pool_bytes": pool.populated_bytes, "huge_bytes": pool.huge_bytes}


def _attach_seconds(pool: ChunkPool, layouts: Sequence[WeightLayout]) -> float:
    """Return the median time in which what lies in a pool becomes tensors."""
    seconds: list[float] = []
    for layout in layouts[:N_ATTACHED]:
        began = time.monotonic()
        AttachedWeights(pool.fd, layout).tensors()
        seconds.append(time.monotonic() - began)
    return statistics.median(seconds)


_LOADINGS: Mapping[str, Callable[[Question], Loading]] = {
    "fresh": lambda _: Loading(lambda group: load(group["directory"])),
    "fresh-batch": lambda _: Loading(lambda group: _load_all([group])[0], _load_all),
    "pool": PoolLoading,
    "batch": SlabLoading,
    "one-by-one": SlabLoading,
    "attach": AttachLoading,
}


def _loading_of(question: Question) -> Loading:
    # A disk is probed once, and known from then on: that is not part of any load.
    for group in question["groups"][:1]:
        known_disks().settings_for(Checkpoint.open(group["directory"]).files[0])
    return _LOADINGS[question["loader"]](question)


def main() -> None:
    """Load in the way that the question names."""
    serve(json.loads(sys.argv[2]), _loading_of)


if __name__ == "__main__":
    main()
