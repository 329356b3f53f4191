"""Loads checkpoints at the bandwidth of the slowest device on the path.

`load(path)` is all that many need; `Checkpoint`, `ChunkPool` and `Loader` are for
those who decide what is loaded when, `AttachedWeights` for those who use it.
"""

from __future__ import annotations

from pilotlight.native_loader.batches import BatchLoader, load_batch
from pilotlight.native_loader.devices.device import (
    Device,
    DeviceInfo,
    DeviceMemory,
    DeviceSpace,
    available_devices,
    open_device,
)
from pilotlight.native_loader.devices.device_weights import AttachedDeviceWeights, DeviceWeights
from pilotlight.native_loader.errors import (
    ChecksumMismatch,
    ChunkStateError,
    ContentMismatch,
    CorruptCheckpoint,
    DestinationExists,
    DeviceFailed,
    DeviceMemoryRefused,
    DeviceUnavailable,
    FileChanged,
    LayoutMismatch,
    LoadCancelled,
    LoaderClosed,
    LoaderError,
    LoadPending,
    MemoryRefused,
    ModelMismatch,
    NoSuchCheckpoint,
    NotACheckpoint,
    OutsideRoots,
    PackFailed,
    PickleRefused,
    PlaceStateError,
    PoolBusy,
    PoolClosed,
    PoolExhausted,
    PoolTooSmall,
    ReadFailed,
    SliceRefused,
    TooManyPartitions,
    UnsupportedVersion,
    WeightsClosed,
)
from pilotlight.native_loader.formats.checkpoint import Checkpoint, CheckpointFormat
from pilotlight.native_loader.formats.ledger import ChecksumLedger
from pilotlight.native_loader.formats.parts import (
    CHUNK_BYTES,
    CheckpointFile,
    Chunk,
    Place,
    TensorEntry,
)
from pilotlight.native_loader.formats.verification import Verification
from pilotlight.native_loader.load_result import LoadProgress, LoadResult
from pilotlight.native_loader.loader import Load, Loader
from pilotlight.native_loader.loading import load
from pilotlight.native_loader.memory.pool import Accounts, ChunkPool
from pilotlight.native_loader.memory.slab import Slab, SlabAccounts
from pilotlight.native_loader.models import from_pretrained
from pilotlight.native_loader.packing.pack import pack
from pilotlight.native_loader.packing.pack_plans import PackPlan, PlanKind
from pilotlight.native_loader.packing.source_kinds import open_source
from pilotlight.native_loader.placements.placement import (
    Placement,
    layer_ranges,
    one_device,
    tensor_parallel,
)
from pilotlight.native_loader.placements.slice_rules import SliceRules
from pilotlight.native_loader.single_files import load_file
from pilotlight.native_loader.weights import AttachedWeights, FileLayout, WeightLayout

__all__ = [
    "CHUNK_BYTES",
    "Accounts",
    "AttachedDeviceWeights",
    "AttachedWeights",
    "BatchLoader",
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
    "Device",
    "DeviceFailed",
    "DeviceInfo",
    "DeviceMemory",
    "DeviceMemoryRefused",
    "DeviceSpace",
    "DeviceUnavailable",
    "DeviceWeights",
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
    "ModelMismatch",
    "NoSuchCheckpoint",
    "NotACheckpoint",
    "OutsideRoots",
    "PackFailed",
    "PackPlan",
    "PickleRefused",
    "PlanKind",
    "Place",
    "PlaceStateError",
    "Placement",
    "PoolBusy",
    "PoolClosed",
    "PoolExhausted",
    "PoolTooSmall",
    "ReadFailed",
    "Slab",
    "SlabAccounts",
    "SliceRefused",
    "SliceRules",
    "TensorEntry",
    "TooManyPartitions",
    "UnsupportedVersion",
    "Verification",
    "WeightLayout",
    "WeightsClosed",
    "available_devices",
    "from_pretrained",
    "layer_ranges",
    "load",
    "load_batch",
    "load_file",
    "one_device",
    "open_device",
    "open_source",
    "pack",
    "tensor_parallel",
]
