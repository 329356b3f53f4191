"""Learning one positive quantity from noisy measurements."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

FORGETTING = 0.8
"""What is left of the weight of all earlier measurements after one more: a
memory of about five, short enough to follow a disk that has slowed down."""

PRIOR_SIGMA = 0.5
"""Spread (natural log) believed before anything was measured: p90 is 1.9 times p50."""

LEAST, MOST = 1e-12, 1e18
"""Neither seconds nor bytes per second lie outside: what does is a clock gone wrong, or a lie."""

_Z90 = 1.2815515655446004
"""The 90 % quantile of the standard normal distribution."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """What one start took, as its node measured it.

    Durations are raw busy times in seconds, so that one phase's waiting for
    another teaches nothing. `transfer_seconds` is None where no bytes moved.
    """

    model: str
    node: str
    engine: str
    channel: str
    size_bytes: int
    bytes_read: int
    transfer_seconds: float | None
    worker_seconds: float | None
    bind_seconds: float | None
    prefill_seconds: float | None = None
    teaches_disk: bool = True
    """False where the bytes came from the page cache."""
    link: str = ""
    """The channel that bytes cross between the node's DRAM and its devices; empty where they
    stay where they are and are only attached."""


@dataclass(slots=True)
class LogNormal:
    """A positive quantity whose logarithm has a forgetting mean and variance.

    Measurements are multiplicative (a disk is "half as fast"), hence the
    logarithm; the median is exact, and p90 follows from the spread.
    """

    mean: float
    variance: float = PRIOR_SIGMA**2
    weight: float = 0.0
    """Of the measurements so far; the first one takes the place of the prior's median."""

    @classmethod
    def prior(cls, value: float) -> LogNormal:
        """Return the belief before any measurement."""
        return cls(math.log(value))

    def observe(self, value: float) -> bool:
        """Learn from one measurement; return False for one that can't be true.

        Zero, negative, infinite and NaN values are such.
        """
        if not is_plausible(value):
            return False
        carried = self.weight * FORGETTING
        total = carried + 1.0
        deviation = math.log(value) - self.mean
        gain = 1.0 / total
        self.mean += gain * deviation
        # Until two measurements agree, the prior's spread keeps its say.
        believed = self.variance if carried > 0.0 else PRIOR_SIGMA**2
        self.variance = (1.0 - gain) * (believed + gain * deviation**2) if carried else believed
        self.weight = total
        return True

    @property
    def p50(self) -> float:
        """The median."""
        return math.exp(self.mean)

    @property
    def p90(self) -> float:
        """The value that nine of ten measurements stay below."""
        return math.exp(self.mean + _Z90 * math.sqrt(self.variance))

    @property
    def p10(self) -> float:
        """The value that nine of ten measurements exceed: a bandwidth's bad case."""
        return math.exp(self.mean - _Z90 * math.sqrt(self.variance))


@dataclass(slots=True)
class Learned:
    """One quantity for each key, with a prior for keys never measured."""

    prior: float
    by_key: dict[str, LogNormal] = field(default_factory=dict[str, LogNormal])

    def observe(self, key: str, value: float) -> bool:
        """Learn one measurement for `key`; return False for one that can't be true."""
        known = self.by_key.get(key) or LogNormal.prior(self.prior)
        if not known.observe(value):
            return False
        self.by_key[key] = known
        return True

    def get(self, key: str, *, prior: float | None = None) -> LogNormal:
        """Return what is known of `key`; nothing but `prior`, if it can be true, before that."""
        known = self.by_key.get(key)
        if known is not None:
            return known
        return LogNormal.prior(prior if prior is not None and is_plausible(prior) else self.prior)


def is_plausible(value: float) -> bool:
    """Return whether a measurement can be true."""
    return LEAST <= value <= MOST
