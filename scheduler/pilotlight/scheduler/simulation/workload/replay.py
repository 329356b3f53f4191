"""Requests as they were, in their time or another."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pilotlight.scheduler.simulation.workload.checks import check_amount, check_positive
from pilotlight.scheduler.simulation.workload.errors import InvalidWorkload
from pilotlight.scheduler.simulation.workload.seeds import Draws, Seeds
from pilotlight.scheduler.simulation.workload.source import Floats, Timed
from pilotlight.scheduler.traces import BrokenTrace, TracedRequest, TraceFile, detect

Traced = tuple[float, int, int, int]
"""A request's time and its model's row, and its tokens: of its prompt, and to emit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Replay:
    """The requests of a trace, of which one is held at a time.

    Where they name models, the i-th name that comes up is model i mod M. Where
    they do not, each is for a model drawn by popularity: MODELS, and nothing else.
    """

    file: Path
    popularity: Floats
    """[models] of sum 1."""
    speedup: float = 1.0
    """Seconds of the trace in one of the workload."""
    from_seconds: float = 0.0
    """In the trace's own time; earlier requests are left out."""

    def __post_init__(self) -> None:
        check_positive("speedup", self.speedup)
        check_amount("from_seconds", self.from_seconds)

    def traced(self, seeds: Seeds, end: float) -> Iterator[Traced]:
        """Yield the requests before `end`, with their tokens.

        Raises:
            BrokenTrace: the file can't be read, is of another kind, or a row breaks a rule.
        """
        rng, n_models = seeds.generator(Draws.MODELS), len(self.popularity)
        up_to = np.cumsum(self.popularity)
        rows: dict[str, int] = {}
        for request in self._requests():
            at = (request.at - self.from_seconds) / self.speedup
            if at >= end:
                return
            if request.model:
                row = rows.setdefault(request.model, len(rows)) % n_models
            else:
                row = int(np.searchsorted(up_to[:-1], rng.random(), side="right"))
            yield at, row, request.prompt_tokens, max(request.output_tokens, 1)

    def timed(self, seeds: Seeds, end: float) -> Iterator[Timed]:
        """Yield the requests before `end`."""
        return ((at, row) for at, row, _, _ in self.traced(seeds, end))

    def shares(self, seeds: Seeds) -> Floats:
        """Return each model's share of the whole trace, which is read for that."""
        counts = np.zeros(len(self.popularity))
        for _, row in self.timed(seeds, sys.float_info.max):
            counts[row] += 1
        if not counts.any():
            raise InvalidWorkload(str(self.file), "no request is left of it")
        shares: Floats = counts / counts.sum()
        return shares

    def _requests(self) -> Iterator[TracedRequest]:
        with TraceFile(self.file) as file:
            found = detect(file)
            for number, record in enumerate(found.read(file), 1):
                if not isinstance(record, TracedRequest):
                    raise BrokenTrace(
                        self.file, f"a {found.name} trace has no requests with times", row=number
                    )
                if record.at >= self.from_seconds:
                    yield record
