"""Tensors over memory that this process has mapped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from pilotlight.native_loader.formats.dtypes import is_aligned, torch_type
from pilotlight.native_loader.formats.parts import TensorEntry

if TYPE_CHECKING:
    import numpy as np
    import torch

    from pilotlight.native_loader._native import ChunkView, DeviceMemory


_MOST_DIMENSIONS = 64
"""Of an array of NumPy; tensors may have more."""


class _Items(NamedTuple):
    """How items of one kind are made into tensors."""

    bytes: int
    array_type: np.dtype[Any]
    """Of an array of such items: their own type, or integers of their size."""
    seen_as: torch.dtype | None
    """What type the array's tensor is seen as; None where it has the right one."""


def tensors_over(
    views: Sequence[ChunkView | DeviceMemory], entries: Mapping[str, TensorEntry]
) -> dict[str, torch.Tensor]:
    """Return the tensors of files that are mapped, file i by view i.

    Each keeps its file's view. Tensors that are not aligned to their items are
    copies. F4 becomes torch's type of two values per byte, with the last dimension
    halved; where torch has no such type (F6), a tensor is its bytes, as one
    dimension of uint8.
    """
    import numpy as np
    import torch

    # Both have the buffer protocol, which Python 3.11 can't say in types.
    buffers = cast("Sequence[Any]", views)
    tensors: dict[str, torch.Tensor] = {}
    for name, entry in entries.items():
        items = _items(entry.dtype) if len(entry.shape) <= _MOST_DIMENSIONS else None
        buffer, offset = buffers[entry.file], entry.offset
        if items is None or offset % items.bytes or not entry.size_bytes:
            tensors[name] = _unusual_tensor(buffer, offset, entry)
            continue
        # This way takes half the time of torch.frombuffer, and has storage of the same size.
        array = np.ndarray(entry.shape, items.array_type, buffer, offset)
        tensor = torch.from_numpy(array)  # pyright: ignore[reportUnknownMemberType] - its own types
        tensors[name] = tensor if items.seen_as is None else tensor.view(items.seen_as)
    return tensors


def _unusual_tensor(buffer: Any, offset: int, entry: TensorEntry) -> torch.Tensor:
    import torch

    dtype, shape = torch_type(entry.dtype, entry.shape) or (torch.uint8, (entry.size_bytes,))
    if entry.size_bytes == 0:
        return torch.empty(shape, dtype=dtype)
    raw = torch.frombuffer(buffer, dtype=torch.uint8, count=entry.size_bytes, offset=offset)
    if not is_aligned(offset, entry.dtype):
        raw = raw.clone()
    return raw.view(dtype).reshape(shape)


@cache
def _items(dtype: str) -> _Items | None:
    """Return how to make items of a kind into tensors; None where their shape changes."""
    import numpy as np
    import torch

    # F4 has a type only for shapes that can be halved, and that differs from its own.
    type_and_shape = torch_type(dtype, ())
    if type_and_shape is None:
        return None
    tensor_type, _ = type_and_shape
    try:
        own = torch.empty(0, dtype=tensor_type).numpy().dtype
    except TypeError:
        return _Items(tensor_type.itemsize, np.dtype(f"u{tensor_type.itemsize}"), tensor_type)
    return _Items(tensor_type.itemsize, own, None)
