from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import pytest

from pilotlight.store_node.core import Evictable, Evictor, LruEvictor, ValueEvictor
from pilotlight.store_node.core.events import PaceFound
from pilotlight.store_node.protocol import ChannelId, Reference
from pilotlight.store_node.testing import EvictorContract, NodeCase


class TestLruEvictor(EvictorContract):
    @pytest.fixture
    def make_evictor(self) -> Callable[[], Evictor]:
        return LruEvictor


class TestValueEvictor(EvictorContract):
    @pytest.fixture
    def make_evictor(self) -> Callable[[], Evictor]:
        return ValueEvictor


def evictable(
    name: str,
    size_bytes: int,
    last_used: float = 0.0,
    *,
    load_seconds: float = 1.0,
    uses_per_second: float = 1.0,
) -> Evictable:
    return Evictable(
        reference=Reference(name),
        size_bytes=size_bytes,
        last_used=last_used,
        load_seconds=load_seconds,
        uses_per_second=uses_per_second,
    )


def test_lru_takes_the_least_recently_used_until_it_is_enough() -> None:
    candidates = [evictable("new", 10, 3.0), evictable("old", 10, 1.0), evictable("mid", 10, 2.0)]

    chosen = LruEvictor().choose(candidates, needed_bytes=15, now=4.0)

    assert chosen == ["old", "mid"]  # 10 < 15 <= 20


def test_spares_a_small_one_where_a_large_one_has_to_go_as_well() -> None:
    candidates = [evictable("small", 10, 1.0), evictable("large", 100, 2.0)]

    chosen = LruEvictor().choose(candidates, needed_bytes=50, now=4.0)

    assert chosen == ["large"]  # 10 < 50 <= 100


def test_value_takes_what_saves_least_per_byte_and_use() -> None:
    candidates = [
        evictable("popular", 10, load_seconds=1.0, uses_per_second=0.4),  # 0.04 per byte
        evictable("slow", 10, load_seconds=5.0, uses_per_second=0.1),  # 0.05
        evictable("large", 100, load_seconds=10.0, uses_per_second=0.1),  # 0.01
        evictable("rare", 10, load_seconds=1.0, uses_per_second=0.2),  # 0.02
    ]

    chosen = [
        ValueEvictor().choose(candidates, needed_bytes=needed_bytes, now=4.0)
        for needed_bytes in (100, 110, 120)
    ]

    assert chosen == [["large"], ["large", "rare"], ["large", "rare", "popular"]]


def test_value_takes_the_least_recently_used_of_equals() -> None:
    candidates = [evictable("new", 10, 3.0), evictable("old", 10, 1.0)]

    assert ValueEvictor().choose(candidates, needed_bytes=5, now=4.0) == ["old"]


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
        self.offers: list[Evictable] = []

    def choose(
        self, candidates: Sequence[Evictable], *, needed_bytes: int, now: float
    ) -> Sequence[Reference]:
        self.needs.append(needed_bytes)
        self.offers = list(candidates)
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


def test_evictor_is_never_offered_what_is_pinned_bound_or_loading() -> None:
    evictor = CountingEvictor()
    case = NodeCase(devices=1, dram_chunks=4, evictor=evictor)
    names = ("pinned", "bound", "loading", "free")
    pinned, bound, loading, free = (case.checkpoint(name, chunks=1) for name in names)
    for reference in (pinned, free):
        case.fetch(reference)
        case.finish_load(reference)
    case.pin(pinned)
    case.run(bound)
    case.fetch(loading)

    case.fetch(case.checkpoint("big", chunks=2))

    assert [each.reference for each in evictor.offers] == [free]


def test_evictor_learns_how_long_loads_take_and_how_often_they_are_due() -> None:
    evictor = CountingEvictor()
    case = NodeCase(dram_chunks=4, evictor=evictor)
    case.handle(PaceFound(channel_id=ChannelId("disk-1"), bytes_per_second=500.0))
    often, once = case.checkpoint("often", chunks=2), case.checkpoint("once", chunks=2)
    case.fetch(once)
    case.finish_load(once, busy_seconds=0.0)
    for number in range(3):
        case.run(often, f"r{number}")
        case.end(f"r{number}")

    case.fetch(case.checkpoint("big", chunks=2))

    [first, second] = sorted(evictor.offers, key=lambda each: each.reference)
    assert (first.reference, second.reference) == ("often", "once")
    assert first.load_seconds == 1.0  # as measured
    assert second.load_seconds == 4.0  # 2000 bytes at 500 bytes/s
    assert first.uses_per_second == pytest.approx(3 * second.uses_per_second)


def seconds_spent(
    evictor: Evictor, checkpoints: Mapping[str, Model], starts: Sequence[str], *, dram_chunks: int
) -> float:
    """Return what loads take on a node that starts, and stops, one model a minute."""
    case = NodeCase(devices=1, device_chunks=8, dram_chunks=dram_chunks, evictor=evictor)
    for name, model in checkpoints.items():
        case.checkpoint(name, chunks=model.chunks)
    spent_seconds = 0.0
    for number, name in enumerate(starts):
        reference, replica = Reference(name), f"r{number}"
        assert case.after(60.0).start(reference, replica) is None
        if reference in case.loads:
            spent_seconds += checkpoints[name].load_seconds
            case.finish_load(reference, busy_seconds=checkpoints[name].load_seconds)
        case.prepare(replica)
        case.bind(replica)
        case.end(replica)
    return spent_seconds


@dataclass(frozen=True, slots=True)
class Model:
    """What a checkpoint takes, in DRAM and of a start."""

    chunks: int
    load_seconds: float


def test_value_keeps_what_is_used_most_where_lru_has_lost_it_each_time() -> None:
    models = {name: Model(1, 1.0) for name in "pabcd"}
    starts = "pabpcd" * 10  # "p" twice as often as each of the others

    spent = [
        seconds_spent(evictor, models, starts, dram_chunks=2)
        for evictor in (LruEvictor(), ValueEvictor())
    ]

    # DRAM has room for two, and two others come between any two starts of "p": the least
    # recently used one is always the next to come, so all 60 starts load, for 1 s each.
    # By value, "p" is the least popular once, when it was used as often as the others and
    # longest ago; from its second load on it stays: 2 loads of "p" and 40 of the others.
    assert spent == [60.0, 42.0]


@pytest.mark.property
@pytest.mark.parametrize("seed", range(3))
def test_value_spends_less_on_loads_than_lru_where_few_models_are_popular(seed: int) -> None:
    rng = random.Random(seed)
    names = [f"model-{rank}" for rank in range(1, 21)]
    models = {
        name: Model(chunks, chunks * rng.choice([1.0, 3.0]))  # on a fast disk, or a slow one
        for name in names
        for chunks in [rng.choice([1, 2, 4, 8])]
    }
    # Zipf: the n-th model is asked for in proportion to 1 / n.
    starts = rng.choices(names, weights=[1 / rank for rank in range(1, 21)], k=300)
    dram_chunks = sum(model.chunks for model in models.values()) // 4

    lru, value = (
        seconds_spent(evictor, models, starts, dram_chunks=dram_chunks)
        for evictor in (LruEvictor(), ValueEvictor())
    )

    assert value < 0.9 * lru
