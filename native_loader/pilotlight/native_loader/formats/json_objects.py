"""JSON objects of checkpoints, in which no name may appear twice."""

from __future__ import annotations

import json
import reprlib
from collections import Counter
from pathlib import Path
from typing import Any, NoReturn, cast

from pilotlight.native_loader.errors import CorruptCheckpoint

_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 120
_SHORT.maxlong = 40


class BrokenRule(Exception):
    """A rule that a file breaks; the caller knows the file."""


def parse_json_object(raw: bytes, file: Path) -> dict[str, Any]:
    """Parse a JSON object in which no name appears twice.

    Raises:
        CorruptCheckpoint: it is something else.
    """
    try:
        return parse_object(raw)
    except BrokenRule as exc:
        raise CorruptCheckpoint(file, str(exc)) from exc


def parse_object(raw: bytes) -> dict[str, Any]:
    """Parse a JSON object in which no name appears twice.

    Raises:
        BrokenRule: it is something else.
    """
    try:
        text = raw.decode()
        document = json.loads(text, object_pairs_hook=_unique, parse_constant=_no_constant)
    except UnicodeDecodeError as exc:
        raise BrokenRule("holds JSON that is not UTF-8") from exc
    except RecursionError as exc:
        raise BrokenRule("holds JSON that is nested too deeply") from exc
    except ValueError as exc:
        raise BrokenRule(f"holds no valid JSON: {exc}") from exc
    if not isinstance(document, dict):
        raise BrokenRule("holds no JSON object where one must be")
    return cast("dict[str, Any]", document)


def count_strings(raw: bytes) -> int | None:
    """Return how many strings valid JSON holds, names among them, without parsing it.

    If a parser that skips what it does not know and keeps the last of equal names
    kept as many, then nothing was skipped and no names were equal. None where
    counting takes a parser: a backslash is escaped.
    """
    if b"\\\\" in raw:
        return None
    n_escaped = raw.count(b'\\"') if b"\\" in raw else 0
    return (raw.count(b'"') - n_escaped) // 2


def shown(value: object) -> str:
    """Return a value of a file for a message: whatever it is, on one line and not too long."""
    return _SHORT.repr(value)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    unique = dict(pairs)
    if len(unique) != len(pairs):
        counts = Counter(name for name, _ in pairs)
        raise BrokenRule(f"names {shown(counts.most_common(1)[0][0])} twice")
    return unique


def _no_constant(constant: str) -> NoReturn:
    raise BrokenRule(f"holds {constant}, which is not JSON")
