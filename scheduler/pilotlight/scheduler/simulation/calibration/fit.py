"""A scenario's times and bandwidths, as a recording shows them.

Theory of operation. Each figure is the median of what was measured, and noise the
spread of its logarithm. What a model takes on a processor (prefill, decode) grows
with its size, so a line through the medians of those that were seen says what
the others take. Figures of which nothing was seen stay as the scenario has them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np

from pilotlight.scheduler.core.actions import StartFinished
from pilotlight.scheduler.simulation.calibration.observations import Observations
from pilotlight.scheduler.simulation.scenarios import Scenario
from pilotlight.scheduler.simulation.scenarios.names import members
from pilotlight.store_node.protocol import StartOutcome

_FEWEST = 3
"""Measurements that a figure is taken from."""
_NORMAL_HALF = 1.4826
"""Standard deviations in the median distance from the median of what is normally distributed."""

Measured = Callable[[StartOutcome], float | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fitted:
    """What a recording changes in a scenario."""

    changes: Mapping[str, Any]
    """To be laid over the scenario's document."""
    rows: Sequence[Mapping[str, Any]]
    """Each figure, its value before and after, and of how many measurements; 0 = by the others'."""


class _Table:
    """Collects figures, and what there was before."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []

    def take(
        self,
        figure: str,
        before: float,
        measured: Sequence[float],
        *,
        summary: Callable[[Sequence[float]], float] = median,
    ) -> float:
        """Return what sums up what was measured, or what was before where that is too little."""
        if len(measured) < _FEWEST:
            return before
        return self.note(figure, before, summary(measured), of=len(measured))

    def note(self, figure: str, before: float, after: float, *, of: int) -> float:
        """Return a new value of a figure, rounded to what can be read."""
        after = float(f"{after:.4g}")
        self.rows.append({"figure": figure, "before": before, "after": after, "of": of})
        return after


def fit(seen: Observations, scenario: Scenario) -> Fitted:
    """Return what the recording of a cluster changes in the scenario that describes it."""
    table = _Table()
    delays = scenario.delays
    changes: dict[str, Any] = {
        "delays": {
            "plan_seconds": table.take("delays.plan_seconds", delays.plan_seconds, seen.plan),
            "persist_seconds": table.take(
                "delays.persist_seconds", delays.persist_seconds, seen.persist
            ),
            "command_seconds": table.take(
                "delays.command_seconds", delays.command_seconds, seen.command
            ),
        },
        "cluster": {"nodes": _nodes(seen, scenario, table)},
        "models": _models(seen, scenario, table),
    }
    return Fitted(changes=changes, rows=table.rows)


def _nodes(seen: Observations, scenario: Scenario, table: _Table) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for group in scenario.cluster.nodes:
        names = set(members(group.name, group.count))
        starts = [start for start in seen.starts if start.node in names]
        times, place = group.times, f"cluster.nodes.{group.name}"
        warm = _of(starts, lambda outcome: outcome.worker_busy_seconds or None)
        bind = _of(starts, lambda outcome: outcome.bind_seconds or None)
        paces = _of(
            starts,
            lambda outcome: (
                outcome.bytes_read / outcome.disk_busy_seconds
                if outcome.bytes_read and outcome.disk_busy_seconds
                else None
            ),
        )
        disk = group.disks[0]
        section: dict[str, Any] = {
            "name": group.name,
            "times": {
                "warm_worker_seconds": table.take(
                    f"{place}.times.warm_worker_seconds", times.warm_worker_seconds, warm
                ),
                "bind_seconds": table.take(f"{place}.times.bind_seconds", times.bind_seconds, bind),
                "teardown_seconds": table.take(
                    f"{place}.times.teardown_seconds", times.teardown_seconds, seen.teardown
                ),
                "report_seconds": table.take(
                    f"{place}.times.report_seconds", times.report_seconds, _halved(seen)
                ),
                "noise": table.take(
                    f"{place}.times.noise",
                    times.noise,
                    [*_relative(warm), *_relative(bind)],
                    summary=_spread,
                ),
                "transfer_noise": table.take(
                    f"{place}.times.transfer_noise", times.transfer_noise, paces, summary=_spread
                ),
            },
        }
        if disk.bytes_per_second is not None and len(paces) >= _FEWEST:
            pace = table.take(f"{place}.disks.{disk.name}", disk.bytes_per_second, paces)
            section["disks"] = [{"name": disk.name, "bytes_per_second": pace}]
        found.append(section)
    return found


def _models(seen: Observations, scenario: Scenario, table: _Table) -> list[dict[str, Any]]:
    sizes = {
        name: group.size_gb
        for group in scenario.models
        for name in members(group.name, group.count)
    }
    prefills: dict[str, list[float]] = {}
    for start in seen.starts:
        if start.outcome is not None and start.outcome.prefill_seconds is not None:
            prefills.setdefault(start.model, []).append(start.outcome.prefill_seconds)
    steps = {name: each for name, each in seen.step_by_model.items() if name in sizes}
    lines = _line(prefills, sizes), _line(steps, sizes)
    found: list[dict[str, Any]] = []
    for group in scenario.models:
        if group.profile is not None:
            continue
        names, times = members(group.name, group.count), group.serve_times
        found.append({"name": group.name, "serve_times": {}})
        for key, before, measured, line in (
            ("prefill_fixed_seconds", times.prefill_fixed_seconds, prefills, lines[0]),
            ("step_fixed_seconds", times.step_fixed_seconds, steps, lines[1]),
        ):
            figure = f"models.{group.name}.serve_times.{key}"
            values = [each for name in names for each in measured.get(name, ())]
            if len(values) < _FEWEST and line is not None:
                after = table.note(figure, before, line(group.size_gb), of=0)
            else:
                after = table.take(figure, before, values)
            found[-1]["serve_times"][key] = after
    return found


def _line(
    measured: Mapping[str, Sequence[float]], sizes: Mapping[str, float]
) -> Callable[[float], float] | None:
    """Return a line through the medians of models by their size; None where few were seen."""
    points = [
        (sizes[name], median(values))
        for name, values in measured.items()
        if name in sizes and len(values) >= _FEWEST
    ]
    if len({size for size, _ in points}) < 2:
        return None
    slope, level = np.polyfit([size for size, _ in points], [value for _, value in points], 1)
    least = min(value for _, value in points)
    # A model that is smaller than all takes no less than the quickest of them, and never nothing.
    return lambda size: max(float(slope * size + level), least / 2.0)


def _of(starts: Iterable[StartFinished], measured: Measured) -> list[float]:
    values = (measured(start.outcome) for start in starts if start.outcome is not None)
    return [value for value in values if value is not None]


def _halved(seen: Observations) -> list[float]:
    """Return what of a start's unexplained time was its report, the rest being its command."""
    command = median(seen.command) if seen.command else 0.0
    return [max(each - command, 0.0) for each in seen.report]


def _relative(values: Sequence[float]) -> list[float]:
    """Return the values by their median."""
    return [value / median(values) for value in values]


def _spread(values: Sequence[float]) -> float:
    """Return the standard deviation of the logarithm, by the median distance from the median."""
    logarithms = [math.log(value) for value in values if value > 0.0]
    middle = median(logarithms)
    return _NORMAL_HALF * median(abs(each - middle) for each in logarithms)
