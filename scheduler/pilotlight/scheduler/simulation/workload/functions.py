"""The paper's workload: functions' calls as models' rates, and bursts within each interval."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count
from typing import Literal

import numpy as np

from pilotlight.scheduler.simulation.workload.checks import check_positive
from pilotlight.scheduler.simulation.workload.counts import Counts, rebinned
from pilotlight.scheduler.simulation.workload.renewal import GammaGaps, renewal_times
from pilotlight.scheduler.simulation.workload.seeds import Draws, Seeds
from pilotlight.scheduler.simulation.workload.source import Floats, Timed, merged, of_model

Bursts = Literal["model", "cluster"]


@dataclass(frozen=True, slots=True, kw_only=True)
class FunctionSource:
    """Rates by interval and model, in proportion to counts; in each interval a Gamma process.

    Draws TIMES and MODELS, and what `counts` draws. After the last interval the
    first one comes again.
    """

    counts: Callable[[Seeds], Counts]
    """[minutes, models]."""
    requests_per_second: float
    """Of all models, in the mean of all intervals."""
    interval_minutes: int = 1
    cv: float = 8.0
    bursts: Bursts = "model"
    """Of each model on its own, or of all requests, of which each is for a model by its rate."""

    def __post_init__(self) -> None:
        check_positive("requests_per_second", self.requests_per_second)
        check_positive("interval_minutes", self.interval_minutes)
        check_positive("cv", self.cv)

    def timed(self, seeds: Seeds, end: float) -> Iterator[Timed]:
        """Yield the requests before `end`."""
        rates = self._rates(seeds)
        if self.bursts == "cluster":
            return self._of_cluster(rates, seeds, end)
        return merged(
            self._of_model(column, row, seeds, end) for row, column in enumerate(rates.T.tolist())
        )

    def shares(self, seeds: Seeds) -> Floats:
        """Return each model's share of all calls."""
        calls = self.counts(seeds).sum(axis=0)
        shares: Floats = calls / calls.sum()
        return shares

    def _rates(self, seeds: Seeds) -> Floats:
        """Return [intervals, models] in requests per second."""
        counts = rebinned(self.counts(seeds), self.interval_minutes)
        per_call = self.requests_per_second * len(counts) / float(counts.sum())
        return counts.astype(np.float64) * per_call

    def _intervals(self, n: int, end: float) -> Iterator[tuple[int, float, float]]:
        """Yield each interval's row, beginning and end."""
        seconds = 60.0 * self.interval_minutes
        for number in count():
            begin = number * seconds
            if begin >= end:
                return
            yield number % n, begin, min(begin + seconds, end)

    def _of_model(self, rates: list[float], row: int, seeds: Seeds, end: float) -> Iterator[Timed]:
        if not any(rates):
            return
        rng, gaps = seeds.generator(Draws.TIMES, row), GammaGaps(self.cv)
        for interval, begins_at, ends_at in self._intervals(len(rates), end):
            blocks = renewal_times(
                rng, gaps, requests_per_second=rates[interval], begin=begins_at, end=ends_at
            )
            yield from of_model(blocks, row)

    def _of_cluster(self, rates: Floats, seeds: Seeds, end: float) -> Iterator[Timed]:
        rng, gaps = seeds.generator(Draws.TIMES), GammaGaps(self.cv)
        choices = seeds.generator(Draws.MODELS)
        up_to: Floats = rates.cumsum(axis=1)
        for interval, begins_at, ends_at in self._intervals(len(rates), end):
            total = float(up_to[interval, -1])
            for block in renewal_times(
                rng, gaps, requests_per_second=total, begin=begins_at, end=ends_at
            ):
                chosen = choices.random(len(block)) * total
                models = _rows(up_to[interval], chosen)
                yield from zip(block.tolist(), models, strict=True)


def _rows(up_to: Floats, chosen: Floats) -> list[int]:
    """Return for each number the row of the first sum above it."""
    return [int(row) for row in np.searchsorted(up_to, chosen, side="right")]
