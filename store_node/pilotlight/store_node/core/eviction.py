"""Which checkpoints leave DRAM when room is needed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from pilotlight.store_node.protocol import Reference


@dataclass(frozen=True, slots=True, kw_only=True)
class Evictable:
    """A checkpoint in DRAM that may go: complete, neither pinned nor bound nor loading."""

    reference: Reference
    size_bytes: int
    """What evicting it frees."""
    last_used: float
    """Monotonic seconds."""
    load_seconds: float
    """Of a start that a copy in DRAM saves: as its last load took, or as its disk reads."""
    uses_per_second: float
    """Starts and fetches of it, those of the last half-hour counting most."""


class Evictor(Protocol):
    """Chooses what leaves DRAM; the `pilotlight.evictors` entry points are its classes.

    Called by the node core, in the event loop, whenever DRAM lacks room: pure,
    quick, and without arguments to its constructor.
    """

    def choose(
        self, candidates: Sequence[Evictable], *, needed_bytes: int, now: float
    ) -> Sequence[Reference]:
        """Return candidates that together free at least `needed_bytes`, each needed for that.

        There are always enough. Whoever is left out of a good choice makes it too
        small: a copy that goes for nothing is read again for nothing. What is not
        among the candidates is ignored; too few are completed by the least
        recently used ones.
        """
        ...


class LruEvictor:
    """The least recently used first."""

    def choose(
        self, candidates: Sequence[Evictable], *, needed_bytes: int, now: float
    ) -> Sequence[Reference]:
        """Return the least recently used candidates that make enough room."""
        return _worst(candidates, needed_bytes, key=lambda each: each.last_used)


class ValueEvictor:
    """The least valuable first: seconds of start saved per byte, times how often.

    What a byte of DRAM earns is `load_seconds * uses_per_second / size_bytes`,
    in seconds of start saved per second that it is held. Where all disks are as
    fast, that is the least popular first; a checkpoint on a slower disk stays
    for longer.
    """

    def choose(
        self, candidates: Sequence[Evictable], *, needed_bytes: int, now: float
    ) -> Sequence[Reference]:
        """Return the candidates that are worth least per byte, and make enough room."""
        return _worst(candidates, needed_bytes, key=lambda each: (_value(each), each.last_used))


def _value(candidate: Evictable) -> float:
    saved = candidate.load_seconds * candidate.uses_per_second
    return saved / max(1, candidate.size_bytes)


def _worst(
    candidates: Sequence[Evictable], needed_bytes: int, *, key: Callable[[Evictable], Any]
) -> list[Reference]:
    """Return the candidates with the lowest keys that make enough room, but for those to spare.

    A small one goes first by its key and is of no use where a large one has to
    go too: from the best of the chosen on, what is not needed stays.
    """
    chosen: list[Evictable] = []
    excess_bytes = -needed_bytes
    for candidate in sorted(candidates, key=lambda each: (key(each), each.reference)):
        if excess_bytes >= 0:
            break
        chosen.append(candidate)
        excess_bytes += candidate.size_bytes
    spared: set[Reference] = set()
    for candidate in reversed(chosen):
        if candidate.size_bytes <= excess_bytes:
            spared.add(candidate.reference)
            excess_bytes -= candidate.size_bytes
    return [each.reference for each in chosen if each.reference not in spared]
