"""The engines that are installed, found by their entry points."""

from __future__ import annotations

import importlib
from importlib.metadata import EntryPoint, entry_points

from pilotlight.store_node.engines.engine import Engine
from pilotlight.store_node.errors import EngineUnavailable, UnknownEngine

ENTRY_POINT_GROUP = "pilotlight.engines"


def installed_engines() -> dict[str, str]:
    """Return the installed engines: name to "module:class"."""
    return {point.name: point.value for point in _points()}


def find_engine(name: str) -> type[Engine]:
    """Return the class of an installed engine.

    Raises:
        UnknownEngine: none is called so.
        EngineUnavailable: it can't be imported.
    """
    points = {point.name: point for point in _points()}
    if name not in points:
        raise UnknownEngine(name, installed=points)
    distribution = points[name].dist
    return load_engine(
        points[name].value, distribution=distribution.name if distribution is not None else ""
    )


def load_engine(target: str, *, distribution: str = "") -> type[Engine]:
    """Return the class that "module:class" names.

    Raises:
        EngineUnavailable: it can't be imported.
    """
    module, _, attribute = target.partition(":")
    try:
        engine: type[Engine] = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise EngineUnavailable(
            target, distribution=distribution, reason=str(error).partition("\n")[0]
        ) from error
    return engine


def _points() -> list[EntryPoint]:
    return sorted(entry_points(group=ENTRY_POINT_GROUP), key=lambda point: point.name)
