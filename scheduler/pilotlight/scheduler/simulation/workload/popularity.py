"""How much of all requests each model gets."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from pilotlight.scheduler.simulation.workload.checks import check_amount
from pilotlight.scheduler.simulation.workload.errors import InvalidWorkload

Floats = npt.NDArray[np.float64]


def zipf_shares(n_models: int, exponent: float) -> Floats:
    """Return [models] of sum 1, falling with rank ** -exponent; 0 = the same for all.

    Raises:
        InvalidWorkload: the exponent is negative or no number.
    """
    check_amount("zipf_exponent", exponent)
    weights: Floats = np.arange(1, n_models + 1, dtype=np.float64) ** -exponent
    shares: Floats = weights / weights.sum()
    return shares


def weighted_shares(weights: Sequence[float], n_models: int) -> Floats:
    """Return [models] of sum 1, in proportion to the weights.

    Raises:
        InvalidWorkload: there is not one weight for each model, or one is no number
            from 0 on, or all are 0.
    """
    if len(weights) != n_models:
        raise InvalidWorkload("weights", f"there are {len(weights)} of them for {n_models} models")
    for row, weight in enumerate(weights):
        check_amount(f"weights[{row}]", weight)
    total = math.fsum(weights)
    if not total:
        raise InvalidWorkload("weights", "all of them are 0, so there are no requests")
    return np.asarray(weights, np.float64) / total
