"""Requests as a workload sends them."""

from __future__ import annotations

from dataclasses import dataclass

from pilotlight.store_node.protocol import ModelId


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrival:
    """One request."""

    at: float
    """Seconds since the simulation's beginning."""
    model: ModelId
    prompt_tokens: int = 1
    output_tokens: int = 1
    serve_seconds: float | None = None
    """From its first token to its last, whatever else runs; None = as its tokens take."""
