"""Settings as text: the YAML file and the environment's variables."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import msgspec
import msgspec.inspect as ms
import yaml

from pilotlight.process.errors import SettingsError

_MAX_FILE_BYTES = 1 << 20


class _Loader(yaml.SafeLoader):
    """The safe loader, but a key given twice is an error: the first would be lost."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                continue  # It can't be a key, which is said below.
            key = key_node.value
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} is given twice", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


def read_document(path: Path) -> dict[str, Any]:
    """Return the mapping that a YAML file holds.

    Raises:
        SettingsError: it can't be read, is no YAML, or holds something else.
    """
    try:
        with path.open("rb") as file:
            text = file.read(_MAX_FILE_BYTES + 1)
    except OSError as exc:
        raise SettingsError(str(path), exc.strerror or str(exc)) from exc
    if len(text) > _MAX_FILE_BYTES:
        raise SettingsError(str(path), "larger than 1 MiB, so this is no settings file")
    try:
        return msgspec.convert(_parse(text, source=str(path)), dict[str, Any])
    except msgspec.ValidationError as exc:
        raise SettingsError(str(path), "expected names and values") from exc


def check_header(document: dict[str, Any], *, source: str, api_version: str, kind: str) -> None:
    """Take `apiVersion` and `kind` out of a document.

    Raises:
        SettingsError: one of them is missing or another.
    """
    for key, expected in (("apiVersion", api_version), ("kind", kind)):
        found = document.pop(key, None)
        if found != expected:
            got = "it is missing" if found is None else f"got {found!r}"
            raise SettingsError(source, f"must be {expected!r}; {got}", key=key)


def read_text(text: str, type: ms.Type, *, source: str) -> object:
    """Return what a variable's text stands for in a field of that type.

    Lists are written "a, b", sections and maps as YAML ("{a: 1}").
    """
    types = type.types if isinstance(type, ms.UnionType) else (type,)
    if any(isinstance(part, ms.ListType | ms.VarTupleType) for part in types):
        return _parse(text if text.lstrip().startswith("[") else f"[{text}]", source=source)
    if any(isinstance(part, ms.IntType | ms.FloatType | ms.BoolType) for part in types):
        return _parse(text, source=source)
    if any(isinstance(part, ms.StructType | ms.DictType) for part in types):
        return _parse(text, source=source)
    return text


def place(document: dict[str, Any], key: tuple[str, ...], value: object, *, source: str) -> None:
    """Set one value in a document, making the sections on its way.

    Raises:
        SettingsError: the document holds a plain value where a section is.
    """
    name, *rest = key
    if not rest:
        document[name] = value
        return
    inner = document.get(name)
    if inner is None:
        inner = document[name] = {}
    elif not isinstance(inner, dict):
        raise SettingsError(source, f"expected a section, found {inner!r}", key=name)
    place(cast("dict[str, Any]", inner), tuple(rest), value, source=source)


def _parse(text: str | bytes, *, source: str) -> Any:
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as exc:
        mark = getattr(exc, "problem_mark", None)
        where = "" if mark is None else f"line {mark.line + 1}: "
        problem = getattr(exc, "problem", None) or "no YAML"
        raise SettingsError(source, f"{where}{problem}") from exc
    except (UnicodeDecodeError, RecursionError, ValueError) as exc:
        raise SettingsError(source, f"no YAML: {exc}") from exc
