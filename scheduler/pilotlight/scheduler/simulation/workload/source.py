"""What says when requests come, and for which model."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator
from itertools import islice, repeat
from typing import Protocol

import numpy as np
import numpy.typing as npt

from pilotlight.scheduler.simulation.workload.seeds import Seeds

Floats = npt.NDArray[np.float64]

Timed = tuple[float, int]
"""When a request comes, in seconds since the workload's beginning, and its model's row."""


class Source(Protocol):
    """Times of requests; equal seeds give equal ones."""

    def timed(self, seeds: Seeds, end: float) -> Iterator[Timed]:
        """Yield the requests before `end`, in the order of time, a bounded number at a time."""
        ...

    def shares(self, seeds: Seeds) -> Floats:
        """Return [models] of sum 1: how much of all requests is for each, as is to be expected."""
        ...


def of_model(blocks: Iterable[Floats], model: int) -> Iterator[Timed]:
    """Yield the times of one model, one by one."""
    for block in blocks:
        yield from zip(block.tolist(), repeat(model))


def merged(streams: Iterable[Iterator[Timed]]) -> Iterator[Timed]:
    """Yield what several streams yield, in the order of time; at one time by model."""
    return heapq.merge(*streams)


def stretched(
    begin: Callable[[], Iterator[Timed]], n_requests: int, seconds: float
) -> Iterator[Timed]:
    """Yield `n_requests` of an unending stream, its time scaled so that they fill `seconds`.

    All times between requests are scaled alike, so that bursts stay what they
    are. The stream is run through twice, and never held.
    """
    following = next(islice(begin(), n_requests, None))
    pace = seconds / following[0] if following[0] else 0.0
    for at, model in islice(begin(), n_requests):
        yield at * pace, model
