"""The rules that the header of a safetensors file must keep, each with its message."""

from __future__ import annotations

from typing import cast

from pilotlight.native_loader.formats.dtypes import ITEM_BITS
from pilotlight.native_loader.formats.json_objects import BrokenRule, parse_object, shown
from pilotlight.native_loader.formats.parts import HeaderTensor
from pilotlight.native_loader.formats.unicode_text import is_unicode

METADATA_KEY = "__metadata__"
_MAX_INT64 = 2**63 - 1


def parse_by_rules(text: bytes, data_bytes: int) -> tuple[dict[str, HeaderTensor], dict[str, str]]:
    """Return a header's tensors, in the order of their bytes, and its metadata.

    Raises:
        BrokenRule: it breaks one; the message says which.
    """
    document = parse_object(text)
    metadata = _metadata(document.pop(METADATA_KEY, {}))
    tensors = {name: _tensor(name, value) for name, value in document.items()}
    return _check_places(tensors, data_bytes), metadata


def _metadata(value: object) -> dict[str, str]:
    if not isinstance(value, dict):
        raise BrokenRule("__metadata__ is no JSON object")
    metadata = cast("dict[str, object]", value)
    for name, text in metadata.items():
        if not isinstance(text, str):
            raise BrokenRule(f"__metadata__ holds something else than text under {shown(name)}")
        for part in (name, text):
            _check_unicode(part, "__metadata__ holds")
    return cast("dict[str, str]", metadata)


def _tensor(name: str, value: object) -> HeaderTensor:
    _check_unicode(name, "a tensor has the name")
    if not isinstance(value, dict):
        raise BrokenRule(f"tensor {shown(name)} is no JSON object")
    fields = cast("dict[str, object]", value)
    missing = [key for key in ("dtype", "shape", "data_offsets") if key not in fields]
    if missing:
        raise BrokenRule(f"tensor {shown(name)} lacks {missing[0]}")
    dtype = fields["dtype"]
    if not isinstance(dtype, str) or dtype not in ITEM_BITS:
        raise BrokenRule(f"tensor {shown(name)} has the unknown dtype {shown(dtype)}")
    shape = _whole_numbers(name, "shape", fields["shape"])
    offsets = _whole_numbers(name, "data_offsets", fields["data_offsets"])
    if len(offsets) != 2:
        raise BrokenRule(f"tensor {shown(name)} has {len(offsets)} data_offsets, not 2")
    begin, end = offsets
    _check_size(name, dtype, shape, begin, end)
    return HeaderTensor(dtype=dtype, shape=shape, data_offsets=(begin, end))


def _check_unicode(text: str, found: str) -> None:
    if not is_unicode(text):
        raise BrokenRule(f"{found} {shown(text)}, which is not Unicode text")


def _whole_numbers(name: str, key: str, value: object) -> tuple[int, ...]:
    if not isinstance(value, list):
        raise BrokenRule(f"tensor {shown(name)} has a {key} that is no list")
    numbers = cast("list[object]", value)
    for number in numbers:
        # In Python True is an int, in JSON it is not.
        if type(number) is not int or not 0 <= number <= _MAX_INT64:
            raise BrokenRule(f"tensor {shown(name)} has {shown(number)} in its {key}")
    return cast("tuple[int, ...]", tuple(numbers))


def _check_size(name: str, dtype: str, shape: tuple[int, ...], begin: int, end: int) -> None:
    n_items = 1
    for dimension in shape:
        n_items *= dimension
        if n_items > _MAX_INT64:
            raise BrokenRule(f"tensor {shown(name)} has the impossible shape {shown(list(shape))}")
    bits = n_items * ITEM_BITS[dtype]
    if bits % 8:
        raise BrokenRule(f"tensor {shown(name)} does not end at a whole byte")
    if end < begin or end - begin != bits // 8:
        raise BrokenRule(
            f"tensor {shown(name)} needs {bits // 8:,d} bytes and has bytes {begin:,d} to {end:,d}"
        )


def _check_places(tensors: dict[str, HeaderTensor], data_bytes: int) -> dict[str, HeaderTensor]:
    """Return the tensors in the order of their bytes, which cover the data exactly."""
    ordered = dict(sorted(tensors.items(), key=lambda item: item[1].data_offsets))
    reached = 0
    for name, tensor in ordered.items():
        if tensor.begin < reached:
            raise BrokenRule(
                f"tensor {shown(name)} overlaps the one before it, at byte {tensor.begin:,d}"
            )
        if tensor.begin > reached:
            raise BrokenRule(
                f"has a hole of {tensor.begin - reached:,d} bytes before {shown(name)}"
            )
        reached = tensor.end
    if reached > data_bytes:
        raise BrokenRule(f"holds {data_bytes:,d} bytes of data, and its tensors need {reached:,d}")
    if reached < data_bytes:
        raise BrokenRule(f"holds {data_bytes - reached:,d} bytes that belong to no tensor")
    return ordered
