"""Where Pilotlight keeps its data."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path


def home_directory(environ: Mapping[str, str]) -> Path:
    """Return `$PILOTLIGHT_HOME`, or `~/.pilotlight`; it need not exist."""
    configured = environ.get("PILOTLIGHT_HOME")
    return Path(configured).expanduser().absolute() if configured else Path.home() / ".pilotlight"
