"""Loads checkpoints at the bandwidth of the slowest device on the path.

`load(path)` is all that many need; `Checkpoint`, `ChunkPool` and `Loader` are for
those who decide what is loaded when, `AttachedWeights` for those who use it.
"""

from __future__ import annotations

from pilotlight.native_loader.checkpoint import Checkpoint, CheckpointFormat
from pilotlight.native_loader.errors import (
    ChecksumMismatch,
    ChunkStateError,
    ContentMismatch,
    CorruptCheckpoint,
    DestinationExists,
    DeviceUnavailable,
    FileChanged,
    LayoutMismatch,
    LoadCancelled,
    LoaderClosed,
    LoaderError,
    LoadPending,
    MemoryRefused,
    NotACheckpoint,
    OutsideRoots,
    PackFailed,
    PickleRefused,
    PoolBusy,
    PoolClosed,
    PoolExhausted,
    PoolTooSmall,
    ReadFailed,
    UnsupportedVersion,
    WeightsClosed,
)
from pilotlight.native_loader.ledger import ChecksumLedger
from pilotlight.native_loader.load_result import LoadProgress, LoadResult
from pilotlight.native_loader.loader import Load, Loader
from pilotlight.native_loader.loading import load
from pilotlight.native_loader.parts import CHUNK_BYTES, CheckpointFile, Chunk, TensorEntry
from pilotlight.native_loader.pool import Accounts, ChunkPool
from pilotlight.native_loader.verification import Verification
from pilotlight.native_loader.weights import AttachedWeights, FileLayout, WeightLayout

__all__ = [
    "CHUNK_BYTES",
    "Accounts",
    "AttachedWeights",
    "Checkpoint",
    "CheckpointFile",
    "CheckpointFormat",
    "ChecksumLedger",
    "ChecksumMismatch",
    "Chunk",
    "ChunkPool",
    "ChunkStateError",
    "ContentMismatch",
    "CorruptCheckpoint",
    "DestinationExists",
    "DeviceUnavailable",
    "FileChanged",
    "FileLayout",
    "LayoutMismatch",
    "Load",
    "LoadCancelled",
    "LoadPending",
    "LoadProgress",
    "LoadResult",
    "Loader",
    "LoaderClosed",
    "LoaderError",
    "MemoryRefused",
    "NotACheckpoint",
    "OutsideRoots",
    "PackFailed",
    "PickleRefused",
    "PoolBusy",
    "PoolClosed",
    "PoolExhausted",
    "PoolTooSmall",
    "ReadFailed",
    "TensorEntry",
    "UnsupportedVersion",
    "Verification",
    "WeightLayout",
    "WeightsClosed",
    "load",
]
