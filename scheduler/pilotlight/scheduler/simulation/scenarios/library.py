"""Finds scenarios, those that are shipped by name and others by path, and reads them."""

from __future__ import annotations

import copy
import difflib
import re
from collections.abc import Iterator, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

import msgspec

from pilotlight.scheduler.simulation.scenarios import documents, rules
from pilotlight.scheduler.simulation.scenarios.errors import InvalidScenario
from pilotlight.scheduler.simulation.scenarios.scenario import Scenario

_SUFFIX = ".yaml"
_MISSING = "missing required"
_FIELD = re.compile(rf"Object ({_MISSING}|contains unknown) field `(.*)`", re.DOTALL)
_PLAIN = {
    "object": "a section",
    "array": "a list",
    "str": "text",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "null": "nothing",
}


def shipped_names() -> list[str]:
    """Return the names of the shipped scenarios, in the order of the alphabet."""
    found = (path.name for path in _shipped_folder().iterdir())
    return sorted(name.removesuffix(_SUFFIX) for name in found if name.endswith(_SUFFIX))


def load_scenario(
    name_or_path: str | Path, *, changes: Mapping[str, object] | None = None
) -> Scenario:
    """Return a scenario: a shipped one by its name, any other by the path of its file.

    `changes` are values for places such as `cluster.nodes[0].count`.

    Raises:
        InvalidScenario: names the file, the key and the rule.
    """
    path = _path_of(name_or_path)
    source = str(path)
    document = _whole_document(path, ())
    for key, value in (changes or {}).items():
        documents.change_value(document, key, value, source=source)
    document.setdefault(
        "name", re.sub(r"[^A-Za-z0-9._-]", "-", path.stem).lstrip("._-") or "scenario"
    )
    documents.check_finite(document, source=source)
    scenario = _convert(document, source=source)
    rules.check(scenario, source=source)
    return scenario


def _shipped_folder() -> Path:
    # Wheels are unpacked where they are installed, so package data are files.
    return Path(str(files("pilotlight.scheduler.simulation.scenarios"))) / "shipped"


def _path_of(name_or_path: str | Path, *, beside: Path | None = None) -> Path:
    """Return a file; paths of a file's own are as seen from `beside`."""
    text = str(name_or_path)
    names = shipped_names()
    if text in names:
        return _shipped_folder() / f"{text}{_SUFFIX}"
    path = Path(text) if beside is None else beside / text
    if path.exists():
        return path
    close = difflib.get_close_matches(text, names, n=1)
    hint = f"did you mean {close[0]}?" if close else f"shipped are {', '.join(names)}"
    raise InvalidScenario(text, "there is no such scenario, and no such file", hint=hint)


def _whole_document(path: Path, above: tuple[Path, ...]) -> dict[str, Any]:
    """Return what a file says, laid over what the one says that it is based on."""
    if path.resolve() in above:
        raise InvalidScenario(str(path), "it is based on itself", key="based_on")
    document = documents.read_document(path)
    base = document.pop("based_on", None)
    if base is None:
        return document
    if not isinstance(base, str):
        raise InvalidScenario(str(path), "expected a name or a path", key="based_on")
    try:
        base_path = _path_of(base, beside=path.parent)
    except InvalidScenario as exc:
        raise InvalidScenario(
            str(path), f"{base!r}: {exc.rule}", key="based_on", hint=exc.hint
        ) from exc
    below = _whole_document(base_path, (*above, path.resolve()))
    below.pop("name", None)
    whole: dict[str, Any] = documents.laid_over(copy.deepcopy(below), document)
    return whole


def _convert(document: dict[str, Any], *, source: str) -> Scenario:
    try:
        return msgspec.convert(document, Scenario)
    except msgspec.ValidationError as exc:
        rule, _, where = str(exc).partition(" - at `$")
        key = where.rstrip("`").lstrip(".")
        field = _FIELD.fullmatch(rule)
        if field is None:
            raise InvalidScenario(source, _in_plain_words(rule), key=key) from exc
        problem, name = field.groups()
        close = difflib.get_close_matches(name, set(_all_fields()), n=1)
        raise InvalidScenario(
            source,
            "it is missing" if problem == _MISSING else "there is no such key",
            key=f"{key}.{name}" if key else name,
            hint=f"did you mean {close[0]}?" if close and problem != _MISSING else "",
        ) from exc


def _all_fields() -> Iterator[str]:
    """Yield the keys of all sections."""
    _, definitions = msgspec.json.schema_components([Scenario])
    for definition in definitions.values():
        yield from definition.get("properties", {})


def _in_plain_words(rule: str) -> str:
    """Return a rule in the words of YAML, not those of types."""

    def plain(types: re.Match[str]) -> str:
        return " or ".join(_PLAIN.get(each, each) for each in types[1].split(" | "))

    text = re.sub(r"`([^`]*)`", plain, rule)
    return text[:1].lower() + text[1:]
