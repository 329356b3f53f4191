"""Independent random streams from one seed: which part of a workload draws, and what.

Every stream is a PCG64 generator seeded by `SeedSequence(seed, spawn_key=key)`,
where the key is (part, what is drawn, ...). So one more model, or another way to
draw lengths, changes nothing that another stream draws.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

import numpy as np


class Draws(enum.IntEnum):
    """What a stream draws; the second number of its key."""

    FUNCTIONS = 0
    """How often each made-up function is called in each minute, and their order."""
    TIMES = 1
    """The times between requests; a stream for each model, its row being the third number."""
    MODELS = 2
    """Which model a request is for, where all share one process of arrivals."""
    SERVICE = 3
    """How long each request is, in the order of arrival."""
    LENGTHS = 4
    """Which rows of a long trace are kept to draw lengths from."""


@dataclass(frozen=True, slots=True)
class Seeds:
    """The streams of one part of a workload."""

    seed: int
    part: int = 0

    def generator(self, draws: Draws, *key: int) -> np.random.Generator:
        """Return a stream from its beginning."""
        sequence = np.random.SeedSequence(self.seed, spawn_key=(self.part, int(draws), *key))
        return np.random.Generator(np.random.PCG64(sequence))
