"""How long a replica's engine computes on its tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt


class ServeTimes(Protocol):
    """What a model's tokens take; both methods are pure."""

    def prefill_seconds(self, prompt_tokens: int) -> float:
        """Return how long it takes from a request's admission to its first token."""
        ...

    def token_seconds(self, batch: int) -> float:
        """Return how long one more token of each of `batch` requests takes."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class LinearTimes:
    """Both take `a * n + b`, as engines do until they are short of compute."""

    prefill_seconds_per_token: float = 0.0
    prefill_fixed_seconds: float = 0.1
    step_seconds_per_request: float = 0.0
    step_fixed_seconds: float = 0.025

    def prefill_seconds(self, prompt_tokens: int) -> float:
        """Return the seconds from admission to the first token."""
        return self.prefill_fixed_seconds + self.prefill_seconds_per_token * prompt_tokens

    def token_seconds(self, batch: int) -> float:
        """Return the seconds of one decode step."""
        return self.step_fixed_seconds + self.step_seconds_per_request * batch


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredTimes:
    """As profiled: straight lines between what was measured, the last one's slope beyond."""

    prompt_tokens: npt.NDArray[np.float64]
    """Growing."""
    prefill: npt.NDArray[np.float64]
    """Seconds, for each of them."""
    batches: npt.NDArray[np.float64]
    """Growing."""
    steps: npt.NDArray[np.float64]
    """Seconds of a decode step, for each of them."""

    def prefill_seconds(self, prompt_tokens: int) -> float:
        """Return the seconds from admission to the first token."""
        return _between(prompt_tokens, self.prompt_tokens, self.prefill)

    def token_seconds(self, batch: int) -> float:
        """Return the seconds of one decode step."""
        return _between(batch, self.batches, self.steps)


def _between(x: float, known: npt.NDArray[np.float64], values: npt.NDArray[np.float64]) -> float:
    if len(known) > 1 and x > known[-1]:
        slope = (values[-1] - values[-2]) / (known[-1] - known[-2])
        return float(values[-1] + max(slope, 0.0) * (x - known[-1]))
    return float(np.interp(x, known, values))
