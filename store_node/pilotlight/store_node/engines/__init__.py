"""Engines: the plugins that compute tokens, in worker processes of their own."""

from __future__ import annotations

from pilotlight.store_node.engines.engine import (
    Emission,
    Engine,
    EngineSetup,
    Extension,
    Offer,
    Weights,
    Work,
    WorkFailure,
    WorkRefused,
)
from pilotlight.store_node.engines.progress import Progress
from pilotlight.store_node.engines.registry import find_engine, installed_engines, load_engine
from pilotlight.store_node.engines.token_by_token import TokenByToken

__all__ = [
    "Emission",
    "Engine",
    "EngineSetup",
    "Extension",
    "Offer",
    "Progress",
    "TokenByToken",
    "Weights",
    "Work",
    "WorkFailure",
    "WorkRefused",
    "find_engine",
    "installed_engines",
    "load_engine",
]
