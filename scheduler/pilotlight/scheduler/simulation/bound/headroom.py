"""How much of what there is to gain has been gained."""

from __future__ import annotations

from pilotlight.scheduler.simulation.bound.errors import BoundInputError


def headroom_closed(*, baseline: float, ours: float, bound: float) -> float:
    """Return (baseline - ours) / (baseline - bound): 0 = no better, 1 = nobody can do better.

    Negative where `ours` is worse than the baseline. All three are figures of one kind
    for one run or snapshot; NaN where the baseline leaves nothing to gain.

    Raises:
        BoundInputError: the bound is above one of the other two, so that it is none.
    """
    if bound > min(baseline, ours):
        raise BoundInputError(f"{bound:g} is no bound for {baseline:g} and {ours:g}")
    if baseline == bound:
        return float("nan")
    return (baseline - ours) / (baseline - bound)
