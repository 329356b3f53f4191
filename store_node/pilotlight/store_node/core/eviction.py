"""Which checkpoints leave DRAM when room is needed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from pilotlight.store_node.protocol import Reference


@dataclass(frozen=True, slots=True, kw_only=True)
class Evictable:
    """A checkpoint in DRAM that may go: complete, neither pinned nor bound nor loading."""

    reference: Reference
    size_bytes: int
    """What evicting it frees."""
    last_used: float
    """Monotonic seconds."""


class Evictor(Protocol):
    """Chooses what leaves DRAM; the `pilotlight.evictors` entry points are its classes.

    Called by the node core, in the event loop, whenever DRAM lacks room: pure,
    quick, and without arguments to its constructor.
    """

    def choose(
        self, candidates: Sequence[Evictable], *, needed_bytes: int, now: float
    ) -> Sequence[Reference]:
        """Return candidates whose sizes add up to at least `needed_bytes`.

        There are always enough. What is not among the candidates is ignored;
        too few are completed by the least recently used ones.
        """
        ...


class LruEvictor:
    """The least recently used first."""

    def choose(
        self, candidates: Sequence[Evictable], *, needed_bytes: int, now: float
    ) -> Sequence[Reference]:
        """Return the least recently used candidates that make enough room."""
        chosen: list[Reference] = []
        freed_bytes = 0
        for candidate in sorted(candidates, key=lambda each: (each.last_used, each.reference)):
            if freed_bytes >= needed_bytes:
                break
            chosen.append(candidate.reference)
            freed_bytes += candidate.size_bytes
        return chosen
