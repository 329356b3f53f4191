"""Engines: the plugins that compute tokens, in worker processes of their own."""

from __future__ import annotations

from pilotlight.store_node.engines.engine import (
    Emission,
    Engine,
    EngineSetup,
    Offer,
    Weights,
    Work,
    WorkRefused,
)
from pilotlight.store_node.engines.progress import Progress
from pilotlight.store_node.engines.registry import find_engine, installed_engines, load_engine

__all__ = [
    "Emission",
    "Engine",
    "EngineSetup",
    "Offer",
    "Progress",
    "Weights",
    "Work",
    "WorkRefused",
    "find_engine",
    "installed_engines",
    "load_engine",
]
