"""Several runs of each policy, compared: means over seeds with their confidence intervals."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import msgspec
import numpy as np

from pilotlight.scheduler.simulation.report.run_result import (
    PERCENTILES,
    RunResult,
    Spread,
)

# Of Student's distribution, 97.5 %, by degrees of freedom; beyond the table the normal one's.
_STUDENT = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228,
    2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086,
    2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
)  # fmt: skip
_NORMAL = 1.960

_QUANTITIES = ("start", "first_token", "pause")
_COUNTS = (
    "requests",
    "served",
    "timed_out",
    "refused",
    "unfinished",
    "warm_requests",
    "failed_starts",
    "stops",
    "cancelled_starts",
    "evictions",
    "migrations",
    "preemptions",
    "device_seconds",
    "loading_device_seconds",
    "start_error_p50",
)


class Interval(msgspec.Struct, frozen=True, kw_only=True):
    """A mean over seeds, and where it lies with 95 % confidence; NaN ends where there is one."""

    mean: float
    low: float
    high: float


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """One policy over all seeds."""

    policy: str
    seeds: int
    figures: Mapping[str, Interval]
    """By name; seconds, counts or bytes as the name says."""


def compare(results: Sequence[RunResult]) -> list[Comparison]:
    """Return one comparison for each policy, in the order in which they first appear."""
    by_policy: dict[str, list[RunResult]] = {}
    for result in results:
        by_policy.setdefault(result.policy, []).append(result)
    return [
        Comparison(
            policy=policy,
            seeds=len(runs),
            figures={name: interval_of(values) for name, values in _figures(runs).items()},
        )
        for policy, runs in by_policy.items()
    ]


def interval_of(values: Sequence[float]) -> Interval:
    """Return the mean of independent values with its 95 % confidence interval."""
    mean = float(np.mean(values))
    if len(values) < 2 or not math.isfinite(mean):
        return Interval(mean=mean, low=math.nan, high=math.nan)
    freedom = len(values) - 1
    factor = _STUDENT[freedom - 1] if freedom <= len(_STUDENT) else _NORMAL
    reach = factor * float(np.std(values, ddof=1)) / math.sqrt(len(values))
    return Interval(mean=mean, low=mean - reach, high=mean + reach)


def _figures(runs: Sequence[RunResult]) -> dict[str, list[float]]:
    """Return each figure's value of every run."""
    found: dict[str, list[float]] = {}
    for quantity in _QUANTITIES:
        spreads: list[Spread] = [getattr(run, quantity) for run in runs]
        found[f"{quantity}_mean_seconds"] = [each.mean for each in spreads]
        for percentile in PERCENTILES:
            key = f"p{percentile:g}"
            found[f"{quantity}_{key}_seconds"] = [
                each.percentiles.get(key, 0.0) for each in spreads
            ]
    for count in _COUNTS:
        found[count] = [float(getattr(run, count)) for run in runs]
    for tier in sorted({tier for run in runs for tier in run.starts}):
        found[f"starts_from_{tier}"] = [float(run.starts.get(tier, 0)) for run in runs]
    found["channel_bytes"] = [sum(run.channel_bytes.values()) for run in runs]
    return found
