"""One load of ours onto devices in a fresh process.

Run as `python -m pilotlight.native_loader.bench.device_load PARENT_PID QUESTION`; all
but the loaders is `one_load`'s.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from pilotlight.native_loader import (
    CHUNK_BYTES,
    Checkpoint,
    ChunkPool,
    DeviceMemory,
    DeviceWeights,
    Loader,
    open_device,
)
from pilotlight.native_loader.bench.one_load import Bytes, Group, Loading, Tensors, serve
from pilotlight.native_loader.loader import DeviceCopies
from pilotlight.native_loader.loading import STAGING_CHUNKS, known_disks, load_through, load_weights
from pilotlight.native_loader.placements.placement import (
    Partition,
    Placement,
    one_device,
    tensor_parallel,
)

Question = Mapping[str, Any]


class ReadBack(Mapping[str, Bytes]):
    """The tensors of a device's memory, each read back when it is asked for."""

    def __init__(self, memory: DeviceMemory, partition: Partition) -> None:
        self._memory = memory
        self._tensors = partition.tensors

    def __getitem__(self, name: str) -> Bytes:
        tensor = self._tensors[name]
        data = self._memory.read(tensor.offset, tensor.size_bytes)
        return np.frombuffer(data, dtype=np.uint8)

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)


class StagedLoading(Loading):
    """From the disk onto a device, through a pool that is there, as a node's is."""

    def __init__(self, question: Question) -> None:
        super().__init__(self._load_one)
        self._device = open_device(question["device"])
        self._pool = ChunkPool(STAGING_CHUNKS * CHUNK_BYTES)
        self._pool.populate()
        self._loader = Loader(self._pool, disks=known_disks())
        # What is copied from for the first time is pinned.
        for group in question["groups"]:
            self._load_one(group)

    def _load_one(self, group: Group) -> Tensors:
        checkpoint = Checkpoint.open(group["directory"])
        weights, result = load_through(self._loader, self._pool, checkpoint, self._device)
        self.facts["bottleneck"] = result.bottleneck
        return _read_back(checkpoint, weights)


class FreshLoading(Loading):
    """From the disk onto a device, as `load(path, device)` does."""

    def __init__(self, question: Question) -> None:
        super().__init__(self._load_one)
        self._device: str = question["device"]

    def _load_one(self, group: Group) -> Tensors:
        checkpoint = Checkpoint.open(group["directory"])
        weights, result = load_weights(checkpoint, self._device)
        self.facts["bottleneck"] = result.bottleneck
        assert isinstance(weights, DeviceWeights), "it is a device that loads are staged for"
        return _read_back(checkpoint, weights)


class ResidentLoading(Loading):
    """From a pool that holds all of it onto a device."""

    def __init__(self, question: Question) -> None:
        super().__init__(lambda _: self._copied())
        (group,) = question["groups"]
        self._checkpoint = Checkpoint.open(group["directory"])
        self._device = open_device(question["device"])
        self._pool = ChunkPool(self._checkpoint.n_chunks * CHUNK_BYTES)
        self._pool.populate()
        self._loader = Loader(self._pool, disks=known_disks())
        self._chunks = self._pool.allocate(self._checkpoint.n_chunks)
        self._loader.submit(self._checkpoint, self._chunks).result()
        self._placement = one_device(self._checkpoint, self._device.name)
        (partition,) = self._placement.partitions
        self._memory = self._device.allocate(partition.size_bytes)
        # What is copied from for the first time is pinned.
        self._copied()

    def warm_up(self, group: Group) -> None:
        """All was done once already."""

    def _copied(self) -> Tensors:
        running = self._loader.submit(
            self._checkpoint,
            self._chunks,
            resident=range(self._checkpoint.n_chunks),
            copies=DeviceCopies(placement=self._placement, memories=[self._memory]),
        )
        self.facts["bottleneck"] = running.result().bottleneck
        (partition,) = self._placement.partitions
        return ReadBack(self._memory, partition)


class SlicedLoading(Loading):
    """Slices for several devices, for which the CPU's memory stands, read once for all."""

    def __init__(self, question: Question) -> None:
        super().__init__(self._load_one)
        self._degree: int = question["degree"]
        self._device = open_device("cpu")
        self._pool = ChunkPool(STAGING_CHUNKS * CHUNK_BYTES)
        self._pool.populate()
        self._loader = Loader(self._pool, disks=known_disks())

    def warm_up(self, group: Group) -> None:
        """Nothing is: it is bytes that are counted."""

    def _load_one(self, group: Group) -> Tensors:
        checkpoint = Checkpoint.open(group["directory"])
        placement = tensor_parallel(checkpoint, self._degree)
        memories = self._load(checkpoint, placement)
        parts = zip(memories, placement.partitions, strict=True)
        return {
            f"{number} {name}": data
            for number, (memory, partition) in enumerate(parts)
            for name, data in ReadBack(memory, partition).items()
        }

    def _load(self, checkpoint: Checkpoint, placement: Placement) -> Sequence[DeviceMemory]:
        memories = [self._device.allocate(each.size_bytes) for each in placement.partitions]
        staging = self._pool.allocate(min(STAGING_CHUNKS, checkpoint.n_chunks))
        copies = DeviceCopies(placement=placement, memories=memories)
        self._loader.stream(checkpoint, staging, copies).result()
        self._pool.release(staging)
        return memories


def _read_back(checkpoint: Checkpoint, weights: DeviceWeights) -> Tensors:
    (partition,) = one_device(checkpoint, weights.memory.device.name).partitions
    return ReadBack(weights.memory, partition)


_LOADINGS: Mapping[str, Callable[[Question], Loading]] = {
    "gpu": StagedLoading,
    "fresh-gpu": FreshLoading,
    "pool-to-gpu": ResidentLoading,
    "sliced": SlicedLoading,
}


def main() -> None:
    """Load in the way that the question names."""
    serve(json.loads(sys.argv[2]), lambda question: _LOADINGS[question["kind"]](question))


if __name__ == "__main__":
    main()
