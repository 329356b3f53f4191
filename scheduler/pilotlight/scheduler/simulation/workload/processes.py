"""Requests whose times between each other are drawn from a Gamma distribution."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np

from pilotlight.scheduler.simulation.workload.checks import check_positive
from pilotlight.scheduler.simulation.workload.renewal import GammaGaps, renewal_times
from pilotlight.scheduler.simulation.workload.seeds import Draws, Seeds
from pilotlight.scheduler.simulation.workload.source import (
    Floats,
    Source,
    Timed,
    merged,
    of_model,
    stretched,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class GammaSource:
    """A steady rate, shared by popularity; each model has a process of its own.

    Draws TIMES, a stream for each model.
    """

    requests_per_second: float
    """Of all models together."""
    popularity: Floats
    """[models] of sum 1."""
    cv: float = 1.0

    def __post_init__(self) -> None:
        check_positive("requests_per_second", self.requests_per_second)
        check_positive("cv", self.cv)

    def timed(self, seeds: Seeds, end: float) -> Iterator[Timed]:
        """Yield the requests before `end`."""
        gaps = GammaGaps(self.cv)
        rates = (self.requests_per_second * self.popularity).tolist()
        return merged(
            of_model(
                renewal_times(
                    seeds.generator(Draws.TIMES, row),
                    gaps,
                    requests_per_second=rate,
                    begin=0.0,
                    end=end,
                ),
                row,
            )
            for row, rate in enumerate(rates)
        )

    def shares(self, seeds: Seeds) -> Floats:
        """Return the popularity."""
        return self.popularity


@dataclass(frozen=True, slots=True, kw_only=True)
class ExactSource:
    """Another source, scaled in time until its mean rate is met exactly, not in expectation.

    At a CV of 8, a thousand requests that are expected may as well be 750 or 1250.
    """

    source: Source
    """Goes on for ever."""
    requests_per_second: float

    def timed(self, seeds: Seeds, end: float) -> Iterator[Timed]:
        """Yield the requests before `end`, which is finite."""
        n_requests = round(self.requests_per_second * end)
        return stretched(partial(self.source.timed, seeds, np.inf), n_requests, end)

    def shares(self, seeds: Seeds) -> Floats:
        """Return the shares of what is scaled."""
        return self.source.shares(seeds)
