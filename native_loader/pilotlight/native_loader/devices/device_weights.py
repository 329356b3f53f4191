"""Weights in a device's memory as tensors, in whatever process needs them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pilotlight.native_loader import _native
from pilotlight.native_loader.devices.device import CPU, DeviceMemory, open_device
from pilotlight.native_loader.errors import LayoutMismatch, WeightsClosed
from pilotlight.native_loader.formats.dtypes import ITEM_BITS, is_aligned, torch_type
from pilotlight.native_loader.formats.parts import TensorEntry
from pilotlight.native_loader.memory.tensor_views import tensors_over

if TYPE_CHECKING:
    import torch

    from pilotlight.native_loader.placements.placement import PlacedTensor


class DeviceWeights:
    """The tensors of a partition, in a device's memory.

    No byte is copied, unless a tensor is not aligned to its items. The memory
    lives as long as these weights or one of their tensors.
    """

    def __init__(self, memory: DeviceMemory, tensors: Mapping[str, PlacedTensor]) -> None:
        """Take memory that holds, or is to hold, these tensors.

        Raises:
            LayoutMismatch: they do not lie in it.
        """
        for name, tensor in tensors.items():
            _check_tensor(name, tensor, memory.size_bytes)
        self._memory: DeviceMemory | None = memory
        self._tensors = tensors

    @property
    def memory(self) -> DeviceMemory:
        """Return the memory that the tensors lie in.

        Raises:
            WeightsClosed: as it says.
        """
        if self._memory is None:
            raise WeightsClosed
        return self._memory

    @property
    def size_bytes(self) -> int:
        """Return the sum of the tensors' sizes."""
        return sum(tensor.size_bytes for tensor in self._tensors.values())

    def tensors(self) -> dict[str, torch.Tensor]:
        """Return every tensor, on its device.

        F4 becomes torch's type of two values per byte, with the last dimension
        halved; where torch has no such type (F6), a tensor is its bytes, as one
        dimension of uint8.

        Raises:
            WeightsClosed: as it says.
        """
        memory = self.memory
        if memory.device.name == CPU:
            entries = {name: _entry(tensor) for name, tensor in self._tensors.items()}
            return tensors_over([memory.native], entries)
        return {name: _cuda_tensor(memory, tensor) for name, tensor in self._tensors.items()}

    def close(self) -> None:
        """Let go of the memory; it stays until the last tensor goes."""
        self._memory = None


class AttachedDeviceWeights(DeviceWeights):
    """The tensors of a partition that another process holds, or held, and exported."""

    def __init__(
        self, fd: int, device: str, size_bytes: int, tensors: Mapping[str, PlacedTensor]
    ) -> None:
        """Map the memory by its descriptor, which may be closed then.

        Raises:
            DeviceUnavailable: there is no such device in this process.
            LayoutMismatch: the memory is not of that size, or the tensors do not lie in it.
            DeviceFailed, MemoryRefused: it can't be mapped.
        """
        super().__init__(open_device(device).attach(fd, size_bytes), tensors)


class CudaBytes:
    """A range of a GPU's memory, as libraries for GPUs pass them to each other.

    It holds the memory, and whoever makes an array of it holds it.
    """

    def __init__(self, memory: _native.DeviceMemory, offset: int, size_bytes: int) -> None:
        self._memory = memory
        self._offset = offset
        self._size_bytes = size_bytes

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        """Describe it, by the protocol of that name."""
        return {
            "shape": (self._size_bytes,),
            "typestr": "|u1",
            "data": (self._memory.address + self._offset, False),
            "strides": None,
            "version": 3,
        }


def _check_tensor(name: str, tensor: PlacedTensor, memory_bytes: int) -> None:
    is_whole = min(tensor.offset, tensor.size_bytes, *tensor.shape) >= 0
    if not is_whole or tensor.offset + tensor.size_bytes > memory_bytes:
        raise LayoutMismatch(f"tensor {name!r} does not lie in its device's memory")
    if math.prod(tensor.shape) * ITEM_BITS.get(tensor.dtype, 0) != tensor.size_bytes * 8:
        raise LayoutMismatch(f"tensor {name!r} does not have the bytes that its items need")


def _entry(tensor: PlacedTensor) -> TensorEntry:
    return TensorEntry(
        file=0,
        offset=tensor.offset,
        size_bytes=tensor.size_bytes,
        dtype=tensor.dtype,
        shape=tensor.shape,
    )


def _cuda_tensor(memory: DeviceMemory, tensor: PlacedTensor) -> torch.Tensor:
    import torch

    device = memory.device.name
    dtype, shape = torch_type(tensor.dtype, tensor.shape) or (torch.uint8, (tensor.size_bytes,))
    if tensor.size_bytes == 0:
        return torch.empty(shape, dtype=dtype, device=device)
    held = CudaBytes(memory.native, tensor.offset, tensor.size_bytes)
    raw = torch.as_tensor(held, device=device)
    if not is_aligned(tensor.offset, tensor.dtype):
        raw = raw.clone()
    return raw.view(dtype).reshape(shape)
