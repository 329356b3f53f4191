"""Published percentiles of start times beside simulated ones.

A file of them has the columns panel, scheduler, percentile, startup_latency_s,
as read off figures 8 and 9 of the ServerlessLLM paper; ">axis" is a latency beyond
the figure's end, which is more than any other of the panel.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pilotlight.scheduler.errors import BrokenTrace
from pilotlight.scheduler.simulation.report.run_result import CURVE, RunResult

COLUMNS = ("panel", "scheduler", "percentile", "startup_latency_s")
SCHEDULERS: Mapping[str, str] = {
    "random": "Serverless",
    "shepherd": "Shepherd*",
    "serverlessllm": "ServerlessLLM",
}
"""What the paper calls each policy."""

_BEYOND = ">axis"

BAND = (5.0, 95.0)
"""The percentiles over seeds that a published value should lie between."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """One published percentile, and the band of simulated ones."""

    policy: str
    percentile: float
    seconds: float
    """Where it is beyond the figure's end: of that end."""
    is_beyond: bool
    """Of the figure's end."""
    low: float
    high: float

    @property
    def is_inside(self) -> bool:
        """Whether the simulation's runs enclose it."""
        return self.high >= self.seconds and (self.is_beyond or self.low <= self.seconds)


def beside_published(results: Sequence[RunResult], file: Path, *, panel: str) -> list[Published]:
    """Return each published percentile of a panel beside what the runs of its policy say.

    Raises:
        BrokenTrace: the file can't be read, has other columns, or no rows of the panel.
    """
    published = list(_rows(file, panel))
    if not published:
        raise BrokenTrace(file, f"it has no rows of panel {panel}")
    end = max((seconds for _, _, seconds in published if math.isfinite(seconds)), default=0.0)
    found: list[Published] = []
    for policy in dict.fromkeys(result.policy for result in results):
        curves = np.array([result.start.curve for result in results if result.policy == policy])
        for scheduler, percentile, seconds in published:
            if scheduler == SCHEDULERS.get(policy):
                # Neither end of the band is made up between two runs, of which one may be infinite.
                at = np.sort(curves[:, int(np.searchsorted(CURVE, percentile))])
                low, high = np.percentile(at, BAND, method="nearest")
                found.append(
                    Published(
                        policy=policy,
                        percentile=percentile,
                        seconds=min(seconds, end),
                        is_beyond=seconds > end,
                        low=float(low),
                        high=float(high),
                    )
                )
    return found


def _rows(file: Path, panel: str) -> Iterator[tuple[str, float, float]]:
    try:
        with file.open(newline="") as lines:
            table = csv.DictReader(lines)
            if tuple(table.fieldnames or ()) != COLUMNS:
                raise BrokenTrace(file, f"its columns are not {', '.join(COLUMNS)}", row=1)
            for row in table:
                # Names go on with what the panel shows: "8a GSM8K ...".
                if row["panel"].split(" ")[0] != panel:
                    continue
                latency = row["startup_latency_s"]
                try:
                    seconds = math.inf if latency == _BEYOND else float(latency)
                    yield row["scheduler"], float(row["percentile"]), seconds
                except ValueError as exc:
                    raise BrokenTrace(file, str(exc), row=table.line_num) from exc
    except OSError as exc:
        raise BrokenTrace(file, exc.strerror or str(exc)) from exc
