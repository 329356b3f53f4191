"""The settings of a kind of process, from its Struct and the docstrings below its fields."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import entry_points
from typing import Any, get_args, get_type_hints

import msgspec
from docstrings import attribute_docstrings
from tables import code, table

from pilotlight.process.quantities import ByteCount, Seconds
from pilotlight.process.settings import GROUP

_TYPE_NAMES = {
    "ByteCount": "size",
    "Seconds": "duration",
    "Path": "path",
    "str": "text",
    "int": "whole number",
    "float": "number",
    "bool": "true or false",
}


def markdown(kind: str) -> str:
    """Return a table of all settings of a kind."""
    (point,) = entry_points(group=GROUP, name=kind)
    return table(
        ["Key", "Type", "Default", "Meaning"],
        (
            (code(key), kind_of, code(default), meaning)
            for key, kind_of, default, meaning in _rows(point.load())
        ),
    )


def _rows(struct: type[msgspec.Struct], prefix: str = "") -> Iterator[tuple[str, str, str, str]]:
    meanings = attribute_docstrings(struct)
    hints = get_type_hints(struct)
    for field in msgspec.structs.fields(struct):
        hint = hints[field.name]
        if isinstance(hint, type) and issubclass(hint, msgspec.Struct):
            yield from _rows(hint, f"{prefix}{field.encode_name}.")
            continue
        key = f"{prefix}{field.encode_name}"
        yield key, _type_name(hint), _value(field.default), meanings.get(field.name, "")


def _type_name(hint: Any) -> str:
    arguments = [each for each in get_args(hint) if each is not type(None) and each is not ...]
    if not arguments:
        return _TYPE_NAMES[hint.__name__]
    if all(isinstance(each, str) for each in arguments):
        return ", ".join(map(code, arguments))
    if len(arguments) > 1:
        return " or ".join(map(_type_name, arguments))
    (inner,) = arguments
    is_list = getattr(hint, "__origin__", None) is tuple
    return f"list of {_type_name(inner)}s" if is_list else _type_name(inner)


def _value(default: object) -> str:
    match default:
        case None | "" | ():
            return ""
        case ByteCount():
            return f"{default >> 20}MiB"
        case Seconds():
            return f"{default:g}s"
        case bool():
            return str(default).lower()
        case _:
            return str(default)
