"""One YAML file per process, with environment variables and flags on top.

A file says `apiVersion: pilotlight/v1` and its `kind`; the other keys are the
fields of a frozen msgspec.Struct, sections are nested ones. A value is taken
from the flags, else from the environment (`PILOTLIGHT_KEY`, or
`PILOTLIGHT_SECTION__KEY` in a section), else from the file, else it is the
field's default. Nothing misspelt is passed over: an unknown key or variable is
refused with the nearest name. Variables that belong to another kind of process
are known by the entry-point group `pilotlight.settings` (kind = module:Struct)
and passed over.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, TypeVar, cast

import msgspec

from pilotlight.process import _documents, _fields
from pilotlight.process.errors import SettingsError
from pilotlight.process.quantities import ByteCount, Seconds, parse_bytes, parse_seconds

API_VERSION = "pilotlight/v1"
GROUP = "pilotlight.settings"
PREFIX = "PILOTLIGHT_"
# Not settings, unless a kind of process has a field of that name.
RESERVED_VARIABLES = frozenset(
    {
        "PILOTLIGHT_CONTROLLER",  # the address that commands talk to
        "PILOTLIGHT_CUDA_LIBRARY",  # the CUDA driver that is opened
        "PILOTLIGHT_HOME",  # where data lies
        "PILOTLIGHT_REQUIRE",  # what the tests may not skip
        "PILOTLIGHT_TRACES",  # where recorded traces lie
    }
)

S = TypeVar("S", bound=msgspec.Struct)
_Path = tuple[str, ...]


def read_settings(
    kind: str,
    type: type[S],
    *,
    path: Path | None,
    environ: Mapping[str, str],
    overrides: Mapping[str, object],
) -> S:
    """Return the settings of one process.

    `path` = None reads no file. The names in `overrides` are dotted
    ("pool.capacity_bytes"); None stands for a flag that was not given. Sizes
    and durations are fields of type ByteCount and Seconds and may be written
    "8GiB" and "60s"; fields of type Path have ~ expanded.

    Raises:
        SettingsError: names the file, variable or flag, the key, and the rule.
    """
    source = "" if path is None else str(path)
    document = {} if path is None else _documents.read_document(path)
    if path is not None:
        _documents.check_header(document, source=source, api_version=API_VERSION, kind=kind)
    origins: dict[_Path, str] = {}
    fields = _fields.describe(type)
    _fields.check_keys(document, fields, source=source)
    _apply_environment(document, type, fields, environ, origins)
    _apply_overrides(document, fields, overrides, origins)
    return _convert(document, type, source, origins)


def _apply_environment(
    document: dict[str, Any],
    type: type[msgspec.Struct],
    fields: _fields.Section,
    environ: Mapping[str, str],
    origins: dict[_Path, str],
) -> None:
    for name in sorted(environ):
        if not name.startswith(PREFIX):
            continue
        key = tuple(name.removeprefix(PREFIX).lower().split("__"))
        leaf = _fields.find(fields, key)
        if leaf is None:
            if name not in RESERVED_VARIABLES:
                _refuse_unknown_variable(name, type, fields)
            continue
        value = _documents.read_text(environ[name], leaf, source=name)
        _documents.place(document, key, value, source=name)
        origins[key] = name


def _refuse_unknown_variable(
    name: str, type: type[msgspec.Struct], fields: _fields.Section
) -> None:
    key = tuple(name.removeprefix(PREFIX).lower().split("__"))
    known = [*RESERVED_VARIABLES, *_variables(fields)]
    for point in entry_points(group=GROUP):
        other = point.load()
        if other is type:
            continue
        section = _fields.describe(other)
        if _fields.find(section, key) is not None:
            return
        known += _variables(section)
    raise SettingsError(name, f"no such setting{_fields.nearest(name, known)}")


def _variables(fields: _fields.Section) -> list[str]:
    return [PREFIX + "__".join(key).upper() for key in _fields.keys(fields)]


def _apply_overrides(
    document: dict[str, Any],
    fields: _fields.Section,
    overrides: Mapping[str, object],
    origins: dict[_Path, str],
) -> None:
    for name, value in overrides.items():
        if value is None:
            continue
        key = tuple(name.split("."))
        if _fields.find(fields, key) is None:
            raise SettingsError("the command line", "no such setting", key=name)
        _documents.place(document, key, value, source="the command line")
        origins[key] = "the command line"


def _convert(
    document: dict[str, Any], type: type[S], source: str, origins: Mapping[_Path, str]
) -> S:
    try:
        return msgspec.convert(document, type, dec_hook=_decode)
    except msgspec.ValidationError as exc:
        rule, _, where = str(exc).partition(" - at `$")
        key = where.rstrip("`").lstrip(".")
        path = tuple(re.findall(r"\.\.\.|[^.\[\]]+", key))
        rule = _plain(rule)
        if rule.endswith("got text"):
            rule = rule.removesuffix("text") + _value(document, path)
        raise SettingsError(_origin(path, source, origins), rule, key=key) from exc


def _origin(key: _Path, source: str, origins: Mapping[_Path, str]) -> str:
    for length in range(len(key), 0, -1):
        if key[:length] in origins:
            return origins[key[:length]]
    return source


def _value(document: object, key: _Path) -> str:
    """Return what the document holds there, or "text" for a place in a map, which has no name."""
    for part in key:
        if part == "...":
            return "text"
        step = cast("Any", document)
        document = step[int(part)] if isinstance(document, list) else step[part]
    return repr(document)


def _plain(rule: str) -> str:
    names = {"object": "a section", "array": "a list", "str": "text", "int": "a whole number"}
    names |= {"float": "a number", "bool": "true or false", "null": "nothing"}
    text = re.sub(r"`([^`]*)`", lambda match: names.get(match[1], match[1]), rule)
    return text[:1].lower() + text[1:]


def _decode(type: type[Any], value: object) -> object:
    if isinstance(value, type):
        return value
    if type is ByteCount:
        return _decode_bytes(value)
    if type is Seconds:
        return _decode_seconds(value)
    if type is Path and isinstance(value, str):
        return Path(value).expanduser()
    raise ValueError(f"expected {type.__name__}, got {value!r}")


def _decode_bytes(value: object) -> ByteCount:
    if isinstance(value, str):
        return parse_bytes(value)
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return ByteCount(value)
    raise ValueError(f"expected a size such as 8GiB or 500MB, got {value!r}")


def _decode_seconds(value: object) -> Seconds:
    if isinstance(value, str):
        return parse_seconds(value)
    if isinstance(value, int | float) and not isinstance(value, bool) and value >= 0:
        return Seconds(value)
    raise ValueError(f"expected a duration such as 60s or 5m, got {value!r}")
