"""The names that a settings Struct knows, section by section."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias, cast

import msgspec
import msgspec.inspect as ms

from pilotlight.process.errors import SettingsError

Section: TypeAlias = Mapping[str, "ms.Type"]


def describe(type: type[msgspec.Struct]) -> Section:
    """Return the fields of a Struct by name."""
    described = ms.type_info(type)
    assert isinstance(described, ms.StructType)
    return _section(described)


def check_keys(value: Mapping[str, Any], section: Section, *, source: str, at: str = "") -> None:
    """Refuse keys that no field has, in nested sections and lists of them too.

    Raises:
        SettingsError: with the key's path and the nearest name.
    """
    for name, child in value.items():
        path = f"{at}{name}"
        field = section.get(name)
        if field is None:
            raise SettingsError(source, f"no such setting{nearest(name, section)}", key=path)
        inner = _struct(field)
        if inner is None:
            continue
        for where, part in _parts(child, path):
            check_keys(part, _section(inner), source=source, at=f"{where}.")


def find(section: Section, key: tuple[str, ...]) -> ms.Type | None:
    """Return the type of the field with that path, or None."""
    field = section.get(key[0])
    if field is None or len(key) == 1:
        return field
    inner = _struct(field, through_lists=False)
    return None if inner is None else find(_section(inner), key[1:])


def keys(section: Section) -> Iterator[tuple[str, ...]]:
    """Yield the path of every field that is not itself a section."""
    for name, field in section.items():
        inner = _struct(field, through_lists=False)
        if inner is None:
            yield (name,)
        else:
            yield from ((name, *rest) for rest in keys(_section(inner)))


def nearest(name: str, known: Iterable[str]) -> str:
    """Return "; did you mean …?" for the known name nearest to `name`, or what is known."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    if close:
        return f"; did you mean {close[0]}?"
    return f"; known: {', '.join(names)}" if 0 < len(names) <= 12 else ""


def _section(type: ms.StructType) -> Section:
    return {field.encode_name: field.type for field in type.fields}


def _struct(type: ms.Type, *, through_lists: bool = True) -> ms.StructType | None:
    """Return the Struct that a field holds, be it optional or in a list."""
    if isinstance(type, ms.StructType):
        return type
    if isinstance(type, ms.UnionType):
        inner = (_struct(part, through_lists=through_lists) for part in type.types)
        return next((found for found in inner if found is not None), None)
    if through_lists and isinstance(type, ms.ListType | ms.VarTupleType):
        return _struct(type.item_type)
    return None


def _parts(value: object, path: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the mappings in a section or a list of sections; what is neither fails later."""
    if isinstance(value, dict):
        yield path, cast("dict[str, Any]", value)
    elif isinstance(value, list):
        for index, item in enumerate(cast("Sequence[Any]", value)):
            yield from _parts(item, f"{path}[{index}]")
