"""ServeGen's clients, each with a model of its own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, pairwise
from pathlib import Path

import numpy as np

from pilotlight.scheduler.errors import BrokenTrace
from pilotlight.scheduler.simulation.workload.checks import check_positive
from pilotlight.scheduler.simulation.workload.errors import InvalidWorkload
from pilotlight.scheduler.simulation.workload.renewal import (
    GammaGaps,
    Gaps,
    WeibullGaps,
    renewal_times,
)
from pilotlight.scheduler.simulation.workload.seeds import Draws, Seeds
from pilotlight.scheduler.simulation.workload.source import Floats, Timed, merged, of_model
from pilotlight.scheduler.traces import Burst, TraceFile
from pilotlight.scheduler.traces.readers import read_servegen

WINDOW_SECONDS = 600.0
"""Of the last window of a file, after which there is no other."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientSource:
    """A span of the clients' windows, at another pace and rate; client i is for model i.

    Draws TIMES, a stream for each client. A file holds a row for each ten minutes
    of its client; they are read as time goes on, one row ahead.
    """

    files: Sequence[Path]
    """One for each model."""
    requests_per_second: float
    """Of all clients, in the mean of the span."""
    from_seconds: float = 0.0
    """Where in the trace the span begins."""
    span_seconds: float
    """How much of the trace it is."""
    speedup: float = 1.0
    """Seconds of the trace in one of the workload; how bursty they are stays the same."""
    popularity: Floats | None = None
    """[models] of sum 1: of each client's requests, whatever it sent; None = as it did."""
    _requests: list[float] = field(default_factory=list[float])
    """Of each client in the span, as traced; read once."""

    def __post_init__(self) -> None:
        for key in ("requests_per_second", "span_seconds", "speedup"):
            check_positive(key, getattr(self, key))

    @property
    def seconds(self) -> float:
        """How long the workload is."""
        return self.span_seconds / self.speedup

    def timed(self, seeds: Seeds, end: float) -> Iterator[Timed]:
        """Yield the requests before `end`, at most to the end of the span."""
        total = self.requests_per_second * self.seconds
        factors = [
            share * total / requests if requests else 0.0
            for share, requests in zip(self.shares(seeds).tolist(), self._totals(), strict=True)
        ]
        return merged(
            self._of_client(row, factor, seeds, end) for row, factor in enumerate(factors) if factor
        )

    def shares(self, seeds: Seeds) -> Floats:
        """Return each client's share of the requests in the span."""
        totals = np.asarray(self._totals())
        wanted = totals if self.popularity is None else np.where(totals, self.popularity, 0.0)
        if not wanted.sum():
            raise InvalidWorkload(
                "span_seconds", "no client sends requests in the span", hint="take another span"
            )
        shares: Floats = wanted / wanted.sum()
        return shares

    def _totals(self) -> list[float]:
        if not self._requests:
            self._requests.extend(map(self._requests_of, self.files))
        return self._requests

    def _requests_of(self, path: Path) -> float:
        return sum(
            burst.requests_per_second * (ends_at - begins_at)
            for burst, begins_at, ends_at in self._windows(path)
        )

    def _of_client(self, row: int, factor: float, seeds: Seeds, end: float) -> Iterator[Timed]:
        """Yield one client's requests; `factor` of the workload for one of the trace."""
        rng = seeds.generator(Draws.TIMES, row)
        for burst, begins_at, ends_at in self._windows(self.files[row]):
            begin, stop = ((at - self.from_seconds) / self.speedup for at in (begins_at, ends_at))
            if begin >= end:
                return
            blocks = renewal_times(
                rng,
                _gaps(burst),
                requests_per_second=burst.requests_per_second * factor * self.speedup,
                begin=begin,
                end=min(stop, end),
            )
            yield from of_model(blocks, row)

    def _windows(self, path: Path) -> Iterator[tuple[Burst, float, float]]:
        """Yield what of each window lies in the span: beginning and end in the trace's time."""
        span_end = self.from_seconds + self.span_seconds
        with TraceFile(path) as file:
            for burst, following in pairwise(chain(read_servegen(file), (None,))):
                assert burst is not None, "only the last one is"
                begin = max(burst.begins_at, self.from_seconds)
                end = burst.begins_at + WINDOW_SECONDS if following is None else following.begins_at
                if begin >= span_end:
                    return
                if end > begin:
                    yield burst, begin, min(end, span_end)


def _gaps(burst: Burst) -> Gaps:
    """Return how a client's requests follow each other: as fitted, else by the CV, else at random.

    Only the shape of a fit is taken, for its scale does not always agree with the rate.
    """
    if burst.family == "Weibull":
        return WeibullGaps(burst.shape)
    if burst.family == "Gamma":
        return GammaGaps(burst.shape**-0.5)
    return GammaGaps(burst.cv or 1.0)


def check_clients(files: Sequence[Path], n_models: int) -> None:
    """Refuse another number of clients than of models.

    Raises:
        InvalidWorkload: with both numbers.
        BrokenTrace: a file is not there.
    """
    for path in files:
        if not path.is_file():
            raise BrokenTrace(path, "there is no such file")
    if len(files) != n_models:
        raise InvalidWorkload(
            "files", f"there are {len(files)} clients for {n_models} models", hint="one each"
        )
