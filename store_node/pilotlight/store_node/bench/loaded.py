"""Checkpoints in memory, as a node has them, for who binds an engine without a node."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pilotlight.native_loader import CHUNK_BYTES, Checkpoint, ChunkPool, Loader, WeightLayout
from pilotlight.store_node.engines.engine import EngineSetup
from pilotlight.store_node.protocol.values import ModelId, Reference, ReplicaId, ReplicaSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """A checkpoint in a pool of its own."""

    fd: int
    """The pool's."""
    layout: WeightLayout


@contextmanager
def loaded(checkpoint: Checkpoint) -> Generator[Loaded]:
    """Hold a checkpoint in memory within the block.

    Raises:
        LoaderError: it can't be loaded.
    """
    pool = ChunkPool(checkpoint.n_chunks * CHUNK_BYTES)
    try:
        with Loader(pool) as loader:
            chunks = pool.allocate(checkpoint.n_chunks)
            loader.submit(checkpoint, chunks).result()
            yield Loaded(fd=pool.fd, layout=WeightLayout.of(checkpoint, chunks, pool.chunk_bytes))
    finally:
        pool.close()


def setup_of(
    directory: Path,
    *,
    threads: int,
    concurrency: int = 1,
    dtype: str = "auto",
    options: dict[str, str] | None = None,
) -> EngineSetup:
    """Return what an engine without a node is prepared with."""
    return EngineSetup(
        spec=ReplicaSpec(
            replica_id=ReplicaId("bench"),
            model=ModelId("bench"),
            reference=Reference("bench"),
            engine_options=options or {},
            dtype=dtype,
            concurrency=concurrency,
        ),
        directory=directory,
        threads=threads,
    )
