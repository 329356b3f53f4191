"""What became of every request of a run, in columns."""

from __future__ import annotations

import enum
from array import array
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt


class Ending(enum.IntEnum):
    """How a request ended."""

    OPEN = 0
    """It had not when the run ended."""
    SERVED = 1
    TIMED_OUT = 2
    REFUSED = 3


@dataclass(slots=True)
class Ledger:
    """One row per request, in the order of arrival; times are seconds, NaN where it never came."""

    model: array[int] = field(default_factory=lambda: array("i"))
    arrived_at: array[float] = field(default_factory=lambda: array("d"))
    placed_at: array[float] = field(default_factory=lambda: array("d"))
    """When it was given to a replica, for the first time."""
    first_token_at: array[float] = field(default_factory=lambda: array("d"))
    ended_at: array[float] = field(default_factory=lambda: array("d"))
    paused: array[float] = field(default_factory=lambda: array("d"))
    """Seconds without a replica after its first token."""
    attempts: array[int] = field(default_factory=lambda: array("i"))
    ending: array[int] = field(default_factory=lambda: array("b"))

    def __len__(self) -> int:
        return len(self.model)

    def add(self, model: int, arrived_at: float) -> int:
        """Begin a row; return its number."""
        nan = float("nan")
        self.model.append(model)
        self.arrived_at.append(arrived_at)
        self.placed_at.append(nan)
        self.first_token_at.append(nan)
        self.ended_at.append(nan)
        self.paused.append(0.0)
        self.attempts.append(0)
        self.ending.append(Ending.OPEN)
        return len(self.model) - 1

    def paused_seconds(self) -> npt.NDArray[np.float64]:
        """Return [requests]: without a replica, after the first token."""
        return _column(self.paused)

    def start_seconds(self) -> npt.NDArray[np.float64]:
        """Return [requests]: from arrival to a place at a replica."""
        return _column(self.placed_at) - _column(self.arrived_at)

    def first_token_seconds(self) -> npt.NDArray[np.float64]:
        """Return [requests]: from arrival to the first token."""
        return _column(self.first_token_at) - _column(self.arrived_at)

    def endings(self) -> npt.NDArray[np.int8]:
        """Return [requests] of `Ending`."""
        return np.array(self.ending, np.int8)


def _column(values: array[float]) -> npt.NDArray[np.float64]:
    return np.array(values, np.float64)
