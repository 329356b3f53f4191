"""Figures that a release is held to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pilotlight.process import tables

TARGET_COLUMNS = (
    tables.text("figure"),
    tables.number("value", "MEASURED"),
    tables.text("target"),
    tables.text("is_met", "MET"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A figure, and what it should be."""

    figure: str
    value: float
    target: float
    is_least: bool = False
    """Whether the target is the least that the figure should be, and not the most."""

    @property
    def is_met(self) -> bool:
        """Whether it is as it should be."""
        return self.value >= self.target if self.is_least else self.value <= self.target


def target_row(target: Target) -> dict[str, Any]:
    """Return its row in a table of TARGET_COLUMNS."""
    return {
        "figure": target.figure,
        "value": target.value,
        "target": f"{'≥' if target.is_least else '≤'} {target.target:g}",
        "is_met": "yes" if target.is_met else "NO",
    }
