"""Times between requests, and the times of arrival that they make."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pilotlight.scheduler.simulation.workload.checks import check_positive

Floats = npt.NDArray[np.float64]

_MOST_AT_ONCE = 1024
_FEWEST_AT_ONCE = 16


@dataclass(frozen=True, slots=True)
class GammaGaps:
    """Gamma distributed: `cv` is standard deviation by mean, 1 makes a Poisson process."""

    cv: float

    def __post_init__(self) -> None:
        check_positive("cv", self.cv)

    def draw(self, rng: np.random.Generator, n: int) -> Floats:
        """Return [n] gaps of mean 1."""
        variance = self.cv**2
        return rng.gamma(1.0 / variance, variance, n)

    def draw_rest(self, rng: np.random.Generator) -> float:
        """Return what is left of a gap of mean 1 that somebody comes upon."""
        # Whoever comes by finds a gap in proportion to its length, and himself anywhere in it.
        variance = self.cv**2
        return float(rng.random() * rng.gamma(1.0 / variance + 1.0, variance))


@dataclass(frozen=True, slots=True)
class WeibullGaps:
    """Weibull distributed: the smaller its shape, the burstier; 1 makes a Poisson process."""

    shape: float

    def __post_init__(self) -> None:
        check_positive("shape", self.shape)

    def draw(self, rng: np.random.Generator, n: int) -> Floats:
        """Return [n] gaps of mean 1."""
        return rng.weibull(self.shape, n) * self._scale

    def draw_rest(self, rng: np.random.Generator) -> float:
        """Return what is left of a gap of mean 1 that somebody comes upon."""
        by_length = rng.gamma(1.0 + 1.0 / self.shape) ** (1.0 / self.shape)
        return float(rng.random() * by_length * self._scale)

    @property
    def _scale(self) -> float:
        return math.exp(-math.lgamma(1.0 + 1.0 / self.shape))


Gaps = GammaGaps | WeibullGaps


def renewal_times(
    rng: np.random.Generator,
    gaps: Gaps,
    *,
    requests_per_second: float,
    begin: float,
    end: float,
) -> Iterator[Floats]:
    """Yield blocks of times in seconds, growing, from `begin` on and before `end`.

    The process is stationary: it looks as if it had begun long ago, so that the
    mean number of arrivals is rate times length however short that is. A process
    that began with an arrival at `begin` would, at a CV of 8, have 31 more.
    """
    if not requests_per_second:
        return
    at = begin + gaps.draw_rest(rng) / requests_per_second
    while at < end:
        left = min((end - at) * requests_per_second, _MOST_AT_ONCE)
        n = max(_FEWEST_AT_ONCE, min(int(1.1 * left) + 1, _MOST_AT_ONCE))
        until = np.cumsum(gaps.draw(rng, n)) / requests_per_second + at
        times = np.concatenate(((at,), until[:-1]))
        at = float(until[-1])
        yield times if at < end else times[: int(np.searchsorted(times, end))]
