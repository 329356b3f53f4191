"""Rules that all numbers of a workload share."""

from __future__ import annotations

import math

from pilotlight.scheduler.simulation.workload.errors import InvalidWorkload


def check_amount(key: str, value: float) -> None:
    """Refuse what is not a finite number from 0 on.

    Raises:
        InvalidWorkload: with the key.
    """
    if not 0.0 <= value < math.inf:
        raise InvalidWorkload(key, f"{value} is not a number from 0 on")


def check_positive(key: str, value: float) -> None:
    """Refuse what is not a finite number above 0.

    Raises:
        InvalidWorkload: with the key.
    """
    if not 0.0 < value < math.inf:
        raise InvalidWorkload(key, f"{value} is not a number above 0")
