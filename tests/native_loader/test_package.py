from __future__ import annotations

import subprocess
import sys

import pytest

import pilotlight.native_loader
from pilotlight.native_loader import LoaderError, errors


def test_the_public_surface_is_this() -> None:
    assert set(pilotlight.native_loader.__all__) == {
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
        "Placement",
        "Place",
        "PlaceStateError",
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
    }
    assert all(hasattr(pilotlight.native_loader, name) for name in pilotlight.native_loader.__all__)


def test_every_error_has_the_root_and_doubles_a_builtin() -> None:
    leaves = [
        value
        for value in vars(errors).values()
        if isinstance(value, type) and issubclass(value, LoaderError) and value is not LoaderError
    ]

    assert len(leaves) > 15
    for leaf in leaves:
        assert any(base.__module__ == "builtins" for base in leaf.__mro__[1:-3]), leaf


@pytest.mark.integration
def test_importing_it_does_not_import_torch() -> None:
    code = "import sys, pilotlight.native_loader; sys.exit('torch' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0
