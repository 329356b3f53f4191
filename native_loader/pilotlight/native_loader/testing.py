"""Checkpoints for tests, made without torch."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pilotlight.native_loader.formats.dtypes import ITEM_BITS
from pilotlight.native_loader.formats.header import LENGTH_BYTES
from pilotlight.native_loader.formats.weight_files import INDEX_NAME, SINGLE_NAME


@dataclass(frozen=True, slots=True, kw_only=True)
class RawTensor:
    """A tensor as its bytes."""

    dtype: str
    shape: tuple[int, ...]
    data: bytes


def random_tensor(rng: random.Random, dtype: str, *shape: int) -> RawTensor:
    """Return a tensor of random bytes."""
    n_items = 1
    for dimension in shape:
        n_items *= dimension
    data = rng.randbytes(n_items * ITEM_BITS[dtype] // 8)
    return RawTensor(dtype=dtype, shape=shape, data=data)


def safetensors_bytes(
    tensors: Mapping[str, RawTensor], metadata: Mapping[str, str] | None = None
) -> bytes:
    """Return a safetensors file of those tensors, in that order."""
    document: dict[str, object] = {} if metadata is None else {"__metadata__": dict(metadata)}
    begin = 0
    for name, tensor in tensors.items():
        end = begin + len(tensor.data)
        document[name] = {
            "dtype": tensor.dtype,
            "shape": tensor.shape,
            "data_offsets": [begin, end],
        }
        begin = end
    header = json.dumps(document).encode()
    header += b" " * (-len(header) % LENGTH_BYTES)
    data = b"".join(tensor.data for tensor in tensors.values())
    return len(header).to_bytes(LENGTH_BYTES, "little") + header + data


def write_checkpoint(
    directory: Path, tensors: Mapping[str, RawTensor], metadata: Mapping[str, str] | None = None
) -> Path:
    """Write a checkpoint of one file and return its directory."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / SINGLE_NAME).write_bytes(safetensors_bytes(tensors, metadata))
    return directory


def write_sharded_checkpoint(
    directory: Path, shards: Mapping[str, Mapping[str, RawTensor]]
) -> Path:
    """Write a checkpoint of several files, with its index, and return its directory."""
    directory.mkdir(parents=True, exist_ok=True)
    for file_name, tensors in shards.items():
        (directory / file_name).write_bytes(safetensors_bytes(tensors))
    weight_map = {name: file for file, tensors in shards.items() for name in tensors}
    (directory / INDEX_NAME).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return directory
