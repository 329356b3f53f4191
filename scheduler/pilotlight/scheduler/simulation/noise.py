"""How far from what it should take something takes: a bounded factor around 1."""

from __future__ import annotations

import math
from random import Random

MOST_DEVIATIONS = 3.0
"""Of the logarithm: what lies further out is drawn in, so that there is a least and a most."""


def draw_factor(draw: Random, spread: float) -> float:
    """Draw a factor whose logarithm has the standard deviation `spread`, but for its ends."""
    most = MOST_DEVIATIONS * spread
    return math.exp(min(max(draw.gauss(0.0, spread), -most), most))


def least_factor(spread: float) -> float:
    """Return what no drawn factor is below."""
    return math.exp(-MOST_DEVIATIONS * spread)
