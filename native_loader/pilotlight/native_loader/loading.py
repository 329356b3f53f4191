"""Loading a checkpoint in one line."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from pilotlight.native_loader.devices.device import CPU, Device, open_device
from pilotlight.native_loader.devices.device_weights import DeviceWeights
from pilotlight.native_loader.disks.disk_settings import KnownDisks
from pilotlight.native_loader.errors import DeviceMemoryRefused, LoadPending, PoolTooSmall
from pilotlight.native_loader.formats.checkpoint import Checkpoint
from pilotlight.native_loader.formats.ledger import ChecksumLedger
from pilotlight.native_loader.formats.parts import CHUNK_BYTES
from pilotlight.native_loader.formats.scanning import ProgressCallback
from pilotlight.native_loader.load_result import LoadResult
from pilotlight.native_loader.loader import DeviceCopies, Load, Loader
from pilotlight.native_loader.memory.pool import ChunkPool
from pilotlight.native_loader.placements.placement import one_device
from pilotlight.native_loader.weights import AttachedWeights, WeightLayout
from pilotlight.process.home import home_directory

if TYPE_CHECKING:
    import torch

STAGING_CHUNKS = 16
"""What a load passes through on its way to a device: so many that no tier waits for a chunk."""

_POPULATED_BYTES = 64 << 20
"""A shorter load has ended before a thread of its own has populated much."""

_PROGRESS_PERIOD_SECONDS = 0.1


def load(
    path: str | Path,
    device: str = CPU,
    *,
    roots: Sequence[Path] = (),
    ledger: ChecksumLedger | None = None,
    progress: ProgressCallback | None = None,
) -> dict[str, torch.Tensor]:
    """Load a checkpoint and return its tensors by name, declared aliases among them.

    The tensors' memory is theirs, and goes with the last of them. What is in the
    page cache is taken from there. How the disk is read best is found out once and
    kept below `$PILOTLIGHT_HOME`.

    Raises:
        LoaderError: one of those that `Checkpoint.open`, `open_device`, `ChunkPool`,
            `Device.allocate` and `Load.result` raise.
    """
    checkpoint = Checkpoint.open(path, roots=roots)
    weights, _ = load_weights(checkpoint, device, ledger=ledger, progress=progress)
    tensors = weights.tensors()
    weights.close()
    return tensors | {alias: tensors[name] for alias, name in checkpoint.aliases.items()}


def load_weights(
    checkpoint: Checkpoint,
    device: str = CPU,
    *,
    ledger: ChecksumLedger | None = None,
    progress: ProgressCallback | None = None,
    use_page_cache: bool = True,
) -> tuple[AttachedWeights | DeviceWeights, LoadResult]:
    """Load a checkpoint into memory of its own, which lives as long as the weights.

    Raises:
        LoaderError: one of those that `load` raises.
    """
    # Slices are put together on the way to a device, which here is the CPU's memory.
    if device == CPU and not checkpoint.sliced:
        return _load_into_pool(checkpoint, ledger, progress, use_page_cache=use_page_cache)
    pool = ChunkPool(min(STAGING_CHUNKS, checkpoint.n_chunks) * CHUNK_BYTES)
    with Loader(pool, disks=known_disks(), ledger=ledger) as loader:
        return load_through(
            loader,
            pool,
            checkpoint,
            open_device(device),
            progress=progress,
            use_page_cache=use_page_cache,
        )


def load_through(
    loader: Loader,
    pool: ChunkPool,
    checkpoint: Checkpoint,
    device: Device,
    *,
    progress: ProgressCallback | None = None,
    use_page_cache: bool = False,
) -> tuple[DeviceWeights, LoadResult]:
    """Load a checkpoint onto a device through a few free chunks of a pool, however large it is.

    Raises:
        PoolExhausted: the pool has no free chunk.
        LoaderError: one of those that `load` raises.
    """
    placement = one_device(checkpoint, device.name)
    (partition,) = placement.partitions
    memory = device.allocate(partition.size_bytes)
    n_free = min(STAGING_CHUNKS, checkpoint.n_chunks, max(pool.accounts().free, 1))
    staging = pool.allocate(n_free)
    try:
        loader.prepare(checkpoint)
        running = loader.stream(
            checkpoint,
            staging,
            DeviceCopies(placement=placement, memories=[memory]),
            use_page_cache=use_page_cache,
        )
        result = _awaited(running, progress)
    finally:
        pool.release(staging)
    return DeviceWeights(memory, partition.tensors), result


@cache
def known_disks() -> KnownDisks:
    """Return what is known of this machine's disks, kept below `$PILOTLIGHT_HOME`."""
    return KnownDisks(home_directory(os.environ) / "disks")


def _load_into_pool(
    checkpoint: Checkpoint,
    ledger: ChecksumLedger | None,
    progress: ProgressCallback | None,
    *,
    use_page_cache: bool,
) -> tuple[AttachedWeights, LoadResult]:
    pool = _pool_of(checkpoint.n_chunks)
    if checkpoint.size_bytes >= _POPULATED_BYTES:
        pool.populate_in_background()
    with Loader(pool, disks=known_disks(), ledger=ledger) as loader:
        loader.prepare(checkpoint)
        chunks = pool.allocate(checkpoint.n_chunks)
        running = loader.submit(checkpoint, chunks, use_page_cache=use_page_cache)
        # While the disk is busy.
        weights = AttachedWeights(pool, WeightLayout.of(checkpoint, chunks, pool.chunk_bytes))
        result = _awaited(running, progress)
    pool.close()
    return weights, result


def _pool_of(n_chunks: int) -> ChunkPool:
    wanted_bytes = n_chunks * CHUNK_BYTES
    try:
        pool = ChunkPool(wanted_bytes, is_shared=False)
    except PoolTooSmall as exc:
        raise DeviceMemoryRefused(CPU, wanted_bytes, exc.capacity_bytes) from exc
    if pool.n_chunks < n_chunks:
        raise DeviceMemoryRefused(CPU, wanted_bytes, pool.capacity_bytes)
    return pool


def _awaited(running: Load, progress: ProgressCallback | None) -> LoadResult:
    """Wait for a load; one that is given up, by Ctrl-C for example, writes nothing any more."""
    try:
        return running.result() if progress is None else _shown(running, progress)
    except BaseException:
        running.cancel()
        running.wait()
        raise


def _shown(running: Load, progress: ProgressCallback) -> LoadResult:
    while True:
        try:
            result = running.result(_PROGRESS_PERIOD_SECONDS)
        except LoadPending:
            progress(*_done(running))
        else:
            progress(*_done(running))
            return result


def _done(running: Load) -> tuple[int, int]:
    """Return the bytes that are where they should be, and how many there are."""
    now = running.progress()
    if now.total_copied_bytes:
        return now.copied_bytes, now.total_copied_bytes
    return now.done_bytes, now.total_bytes
