"""Finds plugins by entry point."""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points
from typing import Any

from pilotlight.process.errors import PluginError


def load_plugin(group: str, name: str) -> Any:
    """Return what the entry point `name` of `group` names.

    Raises:
        PluginError: there is none, or it can't be imported; says which distribution has it.
    """
    points = {point.name: point for point in entry_points(group=group)}
    point = points.get(name)
    if point is None:
        known = ", ".join(sorted(points)) or "none"
        raise PluginError(f"no {group} plugin is called {name!r}; installed: {known}")
    try:
        return point.load()
    # A third party's module may raise anything at all when it is imported.
    except Exception as exc:
        raise PluginError(
            f"the {group} plugin {name!r} of {_distribution(point)} can't be loaded: {exc!r}"
        ) from exc


def _distribution(point: EntryPoint) -> str:
    return point.dist.name if point.dist is not None else "an unknown package"
