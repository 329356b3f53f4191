"""How many times as fast one thing is as another, and how sure that is."""

from __future__ import annotations

import random
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

AHEAD_LOW = 0.97
"""What the interval of who is ahead stays above."""

_RESAMPLES = 4000
_TAIL = 0.025
"""On either side of the 95 % interval."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ratio:
    """A median of ratios, with the 95 % bootstrap interval."""

    median: float
    low: float
    high: float
    n: int
    """How many pairs there were."""

    @property
    def is_ahead(self) -> bool:
        """Whether it is above 1, and not by chance."""
        return self.median > 1 and self.low > AHEAD_LOW


def ratio_of(above: Mapping[int, float], below: Mapping[int, float]) -> Ratio | None:
    """Return how many times `below` goes into `above`, by the rounds that have both.

    What was measured in the same round met the same machine. None where no round
    has both.
    """
    ratios = [above[number] / below[number] for number in sorted(above) if number in below]
    if not ratios:
        return None
    low, high = interval(ratios)
    return Ratio(median=statistics.median(ratios), low=low, high=high, n=len(ratios))


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Return the 95 % bootstrap interval of the median, always the same for the same values."""
    rng = random.Random(0)
    medians = sorted(
        statistics.median(rng.choices(values, k=len(values))) for _ in range(_RESAMPLES)
    )
    return medians[int(_TAIL * _RESAMPLES)], medians[int((1 - _TAIL) * _RESAMPLES) - 1]
