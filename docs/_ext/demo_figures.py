"""The figures of one run of the demo, from the file that it wrote."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

from tables import table

_FILE = Path(__file__).parents[1] / "reference" / "demo.json"

_FIGURES = {
    "cold_speedup_median": "(c)/(a), median over all rounds",
    "cold_speedup_no_imports": "(d)/(a), median over all rounds",
    "dram_speedup_median": "(c)/(b), median over all rounds",
    "starts_from_ssd": "starts from SSD while traffic ran",
    "starts_from_dram": "starts from DRAM while traffic ran",
    "leftover_processes": "processes left when it ended",
}


def markdown(_argument: str) -> str:
    """Return the comparison by checkpoint, and the figures."""
    found: dict[str, Any] = json.loads(_FILE.read_text())
    rounds: list[dict[str, Any]] = found["rounds"]
    figures: dict[str, float] = found["figures"]
    models = dict.fromkeys(each["model"] for each in rounds)
    comparison = table(
        ["Checkpoint", "MB", "(a) SSD", "(b) DRAM", "(c) fresh", "(d) imported", "(c)/(a)"],
        (_row(model, [each for each in rounds if each["model"] == model]) for model in models),
    )
    summary = table(
        ["Figure", "Value"], ((_FIGURES[name], f"{figures[name]:g}") for name in _FIGURES)
    )
    return f"{comparison}\n{summary}"


def _row(model: str, rounds: list[dict[str, Any]]) -> list[str]:
    def median(name: str) -> float:
        return statistics.median(float(each[f"{name}_seconds"]) for each in rounds)

    ratio = statistics.median(r["fresh_seconds"] / r["ssd_seconds"] for r in rounds)
    return [
        model,
        f"{rounds[0]['size_bytes'] / 1e6:.0f}",
        f"{median('ssd'):.3f}",
        f"{median('dram'):.3f}",
        f"{median('fresh'):.2f}",
        f"{median('imported'):.3f}",
        f"{ratio:.1f}",
    ]
