"""What it is worth to have a checkpoint in DRAM: how long a load takes, and how often one is due.

Theory of operation. A *use* of a checkpoint is a start of a replica or a fetch.
Each weighs one when it happens and half as much after every half-life, so the
sum is high for what is used often and lately, and never needs to be swept:
two weights that are stated at different times are compared by letting both age
to the same one. What is known of a checkpoint outlasts its eviction; of more
checkpoints than a node remembers, the least popular are forgotten.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from pilotlight.store_node.protocol import ChannelId, Reference

HALF_LIFE_SECONDS = 1800.0
"""Of a use. A model that is asked every few minutes is worth its DRAM at once, and one that
was busy yesterday (48 half-lives ago) no more than one that never was."""

MOST_KNOWN_CHECKPOINTS = 4_096
"""More than lie below the model roots of a node; together they take about a MB."""

_ASSUMED_BYTES_PER_SECOND = 1e9
"""Of disks, before anything is known of one: all checkpoints are then as fast per byte."""


@dataclass(slots=True, kw_only=True)
class _Known:
    """What is known of one checkpoint."""

    weight: float = 0.0
    """Of its uses, as it was at `weighed_at`."""
    weighed_at: float
    seconds_per_byte: float = 0.0
    """Of its last measured load; 0 = none was measured."""

    def weight_at(self, now: float) -> float:
        return self.weight * math.exp2(-(now - self.weighed_at) / HALF_LIFE_SECONDS)


class Worth:
    """How popular checkpoints are, and how fast they load."""

    def __init__(self) -> None:
        self._known: dict[Reference, _Known] = {}
        self._paces: dict[ChannelId, float] = {}

    def note_use(self, reference: Reference, *, now: float) -> None:
        """Note that a checkpoint was wanted in memory."""
        known = self._find(reference, now)
        known.weight = known.weight_at(now) + 1.0
        known.weighed_at = now

    def note_load(
        self, reference: Reference, *, bytes_read: int, busy_seconds: float, now: float
    ) -> None:
        """Note how long a load took; one that tells nothing of the disk (0 s) teaches nothing."""
        if bytes_read > 0 and busy_seconds > 0:
            self._find(reference, now).seconds_per_byte = busy_seconds / bytes_read

    def note_pace(self, channel_id: ChannelId, bytes_per_second: float) -> None:
        """Note how fast a disk was found to be, or is assumed to be."""
        if bytes_per_second > 0:
            self._paces[channel_id] = bytes_per_second

    def uses_per_second(self, reference: Reference, *, now: float) -> float:
        """Return how often a checkpoint has been used lately.

        What is used at a steady rate settles at that rate: the weights of r uses
        a second add up to r * half-life / ln 2.
        """
        known = self._known.get(reference)
        return known.weight_at(now) * math.log(2) / HALF_LIFE_SECONDS if known else 0.0

    def load_seconds(
        self, reference: Reference, *, size_bytes: int, channel_id: ChannelId
    ) -> float:
        """Return how long reading a checkpoint takes: as its last load did, or as its disk does."""
        known = self._known.get(reference)
        if known is not None and known.seconds_per_byte > 0:
            return size_bytes * known.seconds_per_byte
        fastest = max(self._paces.values(), default=_ASSUMED_BYTES_PER_SECOND)
        return size_bytes / self._paces.get(channel_id, fastest)

    def _find(self, reference: Reference, now: float) -> _Known:
        known = self._known.get(reference)
        if known is None:
            self._forget_least_popular(now)
            known = self._known[reference] = _Known(weighed_at=now)
        return known

    def _forget_least_popular(self, now: float) -> None:
        if len(self._known) >= MOST_KNOWN_CHECKPOINTS:
            del self._known[min(self._known, key=lambda each: self._known[each].weight_at(now))]
