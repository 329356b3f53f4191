"""The item types of safetensors, as sizes and as torch's types."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

ITEM_BITS: Mapping[str, int] = MappingProxyType(
    {
        "BOOL": 8,
        "F4": 4,
        "F6_E2M3": 6,
        "F6_E3M2": 6,
        "U8": 8,
        "I8": 8,
        "F8_E5M2": 8,
        "F8_E4M3": 8,
        "F8_E8M0": 8,
        "F8_E4M3FNUZ": 8,
        "F8_E5M2FNUZ": 8,
        "I16": 16,
        "U16": 16,
        "F16": 16,
        "BF16": 16,
        "I32": 32,
        "U32": 32,
        "F32": 32,
        "C64": 64,
        "F64": 64,
        "I64": 64,
        "U64": 64,
    }
)

_TORCH_NAMES: Mapping[str, str] = MappingProxyType(
    {
        "BOOL": "bool",
        "F4": "float4_e2m1fn_x2",
        "U8": "uint8",
        "I8": "int8",
        "F8_E5M2": "float8_e5m2",
        "F8_E4M3": "float8_e4m3fn",
        "F8_E8M0": "float8_e8m0fnu",
        "F8_E4M3FNUZ": "float8_e4m3fnuz",
        "F8_E5M2FNUZ": "float8_e5m2fnuz",
        "I16": "int16",
        "U16": "uint16",
        "F16": "float16",
        "BF16": "bfloat16",
        "I32": "int32",
        "U32": "uint32",
        "F32": "float32",
        "C64": "complex64",
        "F64": "float64",
        "I64": "int64",
        "U64": "uint64",
    }
)


def is_aligned(address: int, dtype: str) -> bool:
    """Return whether a tensor may start there without being copied."""
    return address % max(ITEM_BITS[dtype] // 8, 1) == 0


def torch_type(dtype: str, shape: Sequence[int]) -> tuple[torch.dtype, tuple[int, ...]] | None:
    """Return the torch type and shape of such a tensor, None where torch has no such type.

    F4 is torch's type of two values per byte, so its last dimension is halved,
    as safetensors itself does it.
    """
    import torch

    type_ = getattr(torch, _TORCH_NAMES.get(dtype, ""), None)
    if not isinstance(type_, torch.dtype):
        return None
    if dtype != "F4":
        return type_, tuple(shape)
    if not shape or shape[-1] % 2:
        return None
    return type_, (*shape[:-1], shape[-1] // 2)


def dtype_of(type_: torch.dtype, shape: Sequence[int]) -> tuple[str, tuple[int, ...]] | None:
    """Return the name and shape in safetensors of such a torch tensor; None if it has none."""
    found = dtype_named(str(type_).removeprefix("torch."))
    if found != "F4":
        return None if found is None else (found, tuple(shape))
    return ("F4", (*shape[:-1], shape[-1] * 2)) if shape else None


def dtype_named(torch_name: str) -> str | None:
    """Return what safetensors calls the items that torch calls so, such as "bfloat16"."""
    return next((dtype for dtype, name in _TORCH_NAMES.items() if name == torch_name), None)
