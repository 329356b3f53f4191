"""Loading a checkpoint in one line."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pilotlight.native_loader.checkpoint import Checkpoint
from pilotlight.native_loader.errors import DeviceUnavailable, LoadPending
from pilotlight.native_loader.ledger import ChecksumLedger
from pilotlight.native_loader.load_result import LoadResult
from pilotlight.native_loader.loader import Load, Loader
from pilotlight.native_loader.parts import CHUNK_BYTES
from pilotlight.native_loader.pool import ChunkPool
from pilotlight.native_loader.scanning import ProgressCallback
from pilotlight.native_loader.weights import AttachedWeights, WeightLayout

if TYPE_CHECKING:
    import torch

_PROGRESS_PERIOD_SECONDS = 0.1


def load(
    path: str | Path,
    device: str = "cpu",
    *,
    roots: Sequence[Path] = (),
    ledger: ChecksumLedger | None = None,
    progress: ProgressCallback | None = None,
) -> dict[str, torch.Tensor]:
    """Load a checkpoint and return its tensors by name, declared aliases among them.

    The tensors' memory is theirs, and goes with the last of them. What is in the
    page cache is taken from there.

    Raises:
        LoaderError: one of those that `Checkpoint.open`, `ChunkPool` and `Load.result` raise.
        DeviceUnavailable: the device is another than "cpu".
    """
    checkpoint = Checkpoint.open(path, roots=roots)
    weights, _ = load_weights(checkpoint, device, ledger=ledger, progress=progress)
    tensors = weights.tensors()
    weights.close()
    return tensors | {alias: tensors[name] for alias, name in checkpoint.aliases.items()}


def load_weights(
    checkpoint: Checkpoint,
    device: str = "cpu",
    *,
    ledger: ChecksumLedger | None = None,
    progress: ProgressCallback | None = None,
    use_page_cache: bool = True,
) -> tuple[AttachedWeights, LoadResult]:
    """Load a checkpoint into memory of its own, which lives as long as the weights.

    Raises:
        LoaderError: one of those that `load` raises.
    """
    if device != "cpu":
        raise DeviceUnavailable(device)
    pool = ChunkPool(checkpoint.n_chunks * CHUNK_BYTES)
    with Loader(pool, ledger=ledger) as loader:
        chunks = pool.allocate(checkpoint.n_chunks)
        running = loader.submit(checkpoint, chunks, use_page_cache=use_page_cache)
        result = _awaited(running, progress)
        layout = WeightLayout.of(checkpoint, chunks, pool.chunk_bytes)
        weights = AttachedWeights(pool.fd, layout)
    pool.close()
    return weights, result


def _awaited(running: Load, progress: ProgressCallback | None) -> LoadResult:
    if progress is None:
        return running.result()
    while True:
        try:
            result = running.result(_PROGRESS_PERIOD_SECONDS)
        except LoadPending:
            now = running.progress()
            progress(now.done_bytes, now.total_bytes)
        else:
            progress(result.bytes_read, result.bytes_read)
            return result
