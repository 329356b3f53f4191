"""The options of an engine of ours, from its Struct and the docstrings below its fields."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, get_args, get_origin, get_type_hints

import msgspec
from docstrings import attribute_docstrings
from tables import code, table

from pilotlight.store_node.engines.timed_options import TimedOptions
from pilotlight.store_node.engines.transformers.options import TransformersOptions

_OPTIONS: dict[str, type[msgspec.Struct]] = {
    "timed": TimedOptions,
    "transformers": TransformersOptions,
}


def markdown(engine: str) -> str:
    """Return a table of all options of an engine."""
    return table(["Option", "Value", "Default", "Meaning"], _rows(_OPTIONS[engine]))


def _rows(struct: type[msgspec.Struct]) -> Iterator[tuple[str, str, str, str]]:
    hints = get_type_hints(struct)
    meanings: dict[str, str] = {}
    for each in struct.__mro__[::-1]:
        if issubclass(each, msgspec.Struct) and each is not msgspec.Struct:
            meanings |= attribute_docstrings(each)
    for field in msgspec.structs.fields(struct):
        default = "" if field.default in (None, "") else str(field.default)
        yield (
            code(field.encode_name),
            _value(hints[field.name]),
            code(default),
            meanings[field.name],
        )


def _value(hint: Any) -> str:
    if get_origin(hint) is Literal:
        return ", ".join(code(word) for word in get_args(hint) if word)
    kinds = [each for each in get_args(hint) or (hint,) if each is not type(None)]
    (kind,) = kinds
    return {int: "whole number", float: "number", str: "text"}[kind]
