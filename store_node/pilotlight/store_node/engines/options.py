"""Reading `engine_options`, which travel as text, into an engine's own settings."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import TypeVar

import msgspec

from pilotlight.store_node.errors import InvalidOption

S = TypeVar("S", bound=msgspec.Struct)


def read_options(options: Mapping[str, str], settings: type[S]) -> S:
    """Convert options to `settings`, whose fields say what is allowed.

    Raises:
        InvalidOption: an option is unknown, or its value breaks its field's rule.
    """
    known = [field.encode_name for field in msgspec.structs.fields(settings)]
    for name in options:
        if name not in known:
            raise InvalidOption(_describe_unknown(name, known))
    for name, value in options.items():
        try:
            msgspec.convert({name: value}, settings, strict=False)
        except msgspec.ValidationError as error:
            rule = str(error).partition(" - at")[0]
            raise InvalidOption(f"engine option {name}={value!r}: {rule}") from error
    return msgspec.convert(dict(options), settings, strict=False)


def _describe_unknown(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(known) or 'none'}"
    return f"unknown engine option {name!r}; {hint}"
