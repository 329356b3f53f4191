from __future__ import annotations

from collections.abc import Sequence

from pilotlight.store_node.core import Evictable, LruEvictor
from pilotlight.store_node.protocol import Reference
from pilotlight.store_node.testing import NodeCase


def evictable(name: str, size_bytes: int, last_used: float) -> Evictable:
    return Evictable(reference=Reference(name), size_bytes=size_bytes, last_used=last_used)


def test_lru_takes_the_least_recently_used_until_it_is_enough() -> None:
    candidates = [evictable("new", 10, 3.0), evictable("old", 10, 1.0), evictable("mid", 10, 2.0)]

    chosen = LruEvictor().choose(candidates, needed_bytes=15, now=4.0)

    assert chosen == ["old", "mid"]  # 10 < 15 <= 20


class StubbornEvictor:
    """Wants what it may not have, and too little."""

    def choose(
        self, candidates: Sequence[Evictable], *, needed_bytes: int, now: float
    ) -> Sequence[Reference]:
        return [Reference("nowhere"), Reference("young")]


def test_too_small_a_choice_is_completed_and_strangers_are_ignored() -> None:
    case = NodeCase(dram_chunks=3, evictor=StubbornEvictor())
    for name in ("old", "mid", "young"):
        reference = case.after(1.0).checkpoint(name, chunks=1)
        case.fetch(reference)
        case.finish_load(reference)
    big = case.checkpoint("big", chunks=2)

    assert case.fetch(big) is None

    kept = [each.reference for each in case.core.reports.checkpoints() if each.dram_bytes]
    assert kept == ["mid"]  # "young" was chosen, then "old" for what was lacking


class CountingEvictor(LruEvictor):
    """Notes what it was asked."""

    def __init__(self) -> None:
        self.needs: list[int] = []

    def choose(
        self, candidates: Sequence[Evictable], *, needed_bytes: int, now: float
    ) -> Sequence[Reference]:
        self.needs.append(needed_bytes)
        return super().choose(candidates, needed_bytes=needed_bytes, now=now)


def test_evictor_is_asked_only_where_room_is_lacking_and_can_be_made() -> None:
    evictor = CountingEvictor()
    case = NodeCase(dram_chunks=4, evictor=evictor)
    small, big = case.checkpoint("small", chunks=2), case.checkpoint("big", chunks=4)
    case.fetch(small)
    case.fetch(big)
    assert evictor.needs == []
    case.finish_load(small)

    case.fetch(big)

    assert evictor.needs == [2_000]  # 4 chunks wanted, 2 free, 1000 bytes each
