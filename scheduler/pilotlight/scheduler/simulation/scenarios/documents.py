"""Scenario files as text: YAML that says what it seems to say.

Read are plain YAML 1.2 scalars: `no` and `12:30` are text, 1e9 and 5_700_000
are numbers, and a number with a leading zero is none. A key that is given twice
is an error, as are references (`*name`), which can grow without bounds.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any, cast

import yaml

from pilotlight.scheduler.simulation.scenarios.errors import InvalidScenario

_MAX_FILE_BYTES = 1 << 20
_MOST_DEPTH = 50


_WHOLE = r"(?:0|[1-9](?:_?[0-9]){0,17})"

_SCALARS = (
    ("null", r"(?:~|null|Null|NULL|)\Z", ("~", "n", "N", "")),
    ("bool", r"(?:true|True|TRUE|false|False|FALSE)\Z", "tTfF"),
    ("int", rf"[-+]?{_WHOLE}\Z", "-+0123456789"),
    (
        "float",
        rf"[-+]?(?:{_WHOLE}(?:\.[0-9]*|(?=[eE]))|\.[0-9]+)(?:[eE][-+]?[0-9]{{1,3}})?\Z",
        "-+.0123456789",
    ),
)
"""Kinds of plain scalars, what they look like, and how they begin."""


def _resolvers() -> dict[str, list[tuple[str, re.Pattern[str]]]]:
    found: dict[str, list[tuple[str, re.Pattern[str]]]] = {}
    for tag, pattern, beginnings in _SCALARS:
        for character in beginnings:
            found.setdefault(character, []).append(
                (f"tag:yaml.org,2002:{tag}", re.compile(pattern))
            )
    return found


class _Loader(yaml.SafeLoader):
    """The safe loader with fewer surprises."""

    yaml_implicit_resolvers = _resolvers()

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key_node, _ in node.value:
            if key_node.tag != "tag:yaml.org,2002:str":
                raise yaml.constructor.ConstructorError(
                    None, None, "a key is not text", key_node.start_mark
                )
            if key_node.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key_node.value!r} is given twice", key_node.start_mark
                )
            seen.add(key_node.value)
        return super().construct_mapping(node, deep)


def read_document(path: Path) -> dict[str, Any]:
    """Return the mapping that a scenario file holds.

    Raises:
        InvalidScenario: it can't be read, is no YAML (with line and column), or holds
            something else.
    """
    source = str(path)
    try:
        with path.open("rb") as file:
            text = file.read(_MAX_FILE_BYTES + 1)
    except OSError as exc:
        raise InvalidScenario(source, f"it can't be read: {exc.strerror or exc}") from exc
    if len(text) > _MAX_FILE_BYTES:
        raise InvalidScenario(source, "it is larger than 1 MiB, so this is no scenario")
    return parse_document(text, source=source)


def parse_document(text: bytes | str, *, source: str) -> dict[str, Any]:
    """Return the mapping that a scenario's text holds.

    Raises:
        InvalidScenario: it is no YAML (with line and column), or holds something else.
    """
    try:
        _check_structure(text, source=source)
        found: object = yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as exc:
        mark = getattr(exc, "problem_mark", None)
        where = "" if mark is None else f"line {mark.line + 1}, column {mark.column + 1}"
        problem = getattr(exc, "problem", None) or str(exc)
        raise InvalidScenario(source, problem, key=where) from exc
    except InvalidScenario:
        raise
    except (UnicodeDecodeError, RecursionError, ValueError) as exc:
        raise InvalidScenario(source, f"it is no YAML: {exc}") from exc
    if not isinstance(found, dict):
        raise InvalidScenario(source, "it holds no names and values", hint="see `title: ...`")
    return cast("dict[str, Any]", found)


def parse_value(text: str, *, source: str) -> Any:
    """Return one value, read as it would be in a file.

    Raises:
        InvalidScenario: it is none.
    """
    return parse_document(f"value: {text}", source=source).get("value")


def _check_structure(text: bytes | str, *, source: str) -> None:
    """Refuse what small files can grow without bounds by."""
    depth = 0
    for event in yaml.parse(text, Loader=_Loader):
        mark = event.start_mark
        where = "" if mark is None else f"line {mark.line + 1}, column {mark.column + 1}"
        if isinstance(event, yaml.AliasEvent):
            raise InvalidScenario(source, "a reference to another place is not read", key=where)
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if depth > _MOST_DEPTH:
            raise InvalidScenario(source, "it is nested deeper than any scenario", key=where)


def laid_over(base: Any, change: Any) -> Any:
    """Return `base` with what `change` says instead.

    Sections are laid over each other key by key, lists of sections that have
    names by these, where new ones come last; all else is replaced. A section of
    another `kind` replaces the one below.
    """
    if isinstance(base, dict) and isinstance(change, dict):
        below, above = cast("dict[str, Any]", base), cast("dict[str, Any]", change)
        if above.get("kind", below.get("kind")) != below.get("kind"):
            return above
        return below | {
            key: laid_over(below[key], value) if key in below else value
            for key, value in above.items()
        }
    named_base = _by_name(cast("object", base))
    named_change = _by_name(cast("object", change))
    if named_base and named_change:
        return list(laid_over(named_base, named_change).values())
    return change


def _by_name(sections: object) -> dict[str, Any] | None:
    """Return the sections of a list by their names; None where it is no list of such."""
    if not isinstance(sections, list):
        return None
    found: dict[str, Any] = {}
    for section in cast("list[object]", sections):
        name = cast("dict[str, Any]", section).get("name") if isinstance(section, dict) else None
        if not isinstance(name, str) or name in found:
            return None
        found[name] = section
    return found


def change_value(document: dict[str, Any], key: str, value: Any, *, source: str) -> None:
    """Set the value at a path such as `cluster.nodes[0].count`, in place.

    Raises:
        InvalidScenario: there is no such place.
    """
    parts = re.findall(r"[^.\[\]]+|\[\d+\]", key)
    if "".join(part if part[0] == "[" else f".{part}" for part in parts) != f".{key}":
        raise InvalidScenario(source, "it is no place in a scenario", key=key)
    place: Any = document
    for part in parts[:-1]:
        place = _child(place, part, key, source)
    last = parts[-1]
    if isinstance(place, dict) and last[0] != "[":
        cast("dict[str, Any]", place)[last] = value
        return
    _child(place, last, key, source)
    place[int(last[1:-1])] = value


def _child(place: Any, part: str, key: str, source: str) -> Any:
    if part[0] == "[" and isinstance(place, list):
        items = cast("list[Any]", cast("object", place))
        row = int(part[1:-1])
        if row < len(items):
            return items[row]
    elif part[0] != "[" and isinstance(place, dict):
        return cast("dict[str, Any]", place).setdefault(part, {})
    raise InvalidScenario(source, f"there is no {part}", key=key)


def check_finite(value: object, *, source: str, key: str = "") -> None:
    """Refuse numbers that are infinite or none, wherever they are.

    Raises:
        InvalidScenario: with the key.
    """
    if isinstance(value, dict):
        for name, child in cast("dict[str, object]", value).items():
            check_finite(child, source=source, key=f"{key}.{name}" if key else name)
    elif isinstance(value, list | tuple):
        for row, child in enumerate(cast("list[object]", value)):
            check_finite(child, source=source, key=f"{key}[{row}]")
    elif isinstance(value, float) and not math.isfinite(value):
        raise InvalidScenario(source, f"{value} is no number that can be counted with", key=key)
