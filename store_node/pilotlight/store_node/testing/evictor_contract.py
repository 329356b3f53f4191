"""What every evictor must do, as tests."""

# A test's name says what it shows:
# ruff: noqa: D102

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import pytest

from pilotlight.store_node.core import Evictable, Evictor
from pilotlight.store_node.protocol import Reference

_NOW = 10_000.0
_N_SHORTAGES = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class _Shortage:
    """What an evictor is asked: never for more than the candidates have."""

    candidates: tuple[Evictable, ...]
    needed_bytes: int

    def asked(self, evictor: Evictor) -> list[Reference]:
        return list(evictor.choose(self.candidates, needed_bytes=self.needed_bytes, now=_NOW))

    def size_of(self, chosen: Sequence[Reference]) -> int:
        sizes = {each.reference: each.size_bytes for each in self.candidates}
        return sum(sizes[reference] for reference in chosen)


class EvictorContract:
    """Subclass it, give it the fixture, and pytest does the rest.

    It is asked for room on some hundred made-up nodes: with candidates of equal
    and of very different sizes, and among them some that were used at the same
    time, or never, or that cost nothing to load.
    """

    @pytest.fixture
    def make_evictor(self) -> Callable[[], Evictor]:
        """Return a function that makes an evictor, as a node does: without arguments."""
        raise NotImplementedError

    def test_chooses_enough_and_nothing_else(self, make_evictor: Callable[[], Evictor]) -> None:
        for shortage in _shortages():
            chosen = shortage.asked(make_evictor())

            assert set(chosen) <= {each.reference for each in shortage.candidates}, shortage
            assert len(set(chosen)) == len(chosen), shortage
            assert shortage.size_of(chosen) >= shortage.needed_bytes, shortage

    def test_needs_all_that_it_chooses(self, make_evictor: Callable[[], Evictor]) -> None:
        for shortage in _shortages():
            chosen = shortage.asked(make_evictor())

            for spared in chosen:
                rest = [reference for reference in chosen if reference != spared]
                assert shortage.size_of(rest) < shortage.needed_bytes, f"{spared}: {shortage}"

    def test_answers_the_same_whenever_and_in_whatever_order_it_is_asked(
        self, make_evictor: Callable[[], Evictor]
    ) -> None:
        used = make_evictor()
        for shortage in _shortages():
            shuffled = random.Random(0).sample(shortage.candidates, len(shortage.candidates))
            other = _Shortage(candidates=tuple(shuffled), needed_bytes=shortage.needed_bytes)

            answers = [
                shortage.asked(used),
                shortage.asked(used),
                shortage.asked(make_evictor()),
                other.asked(used),
            ]

            assert answers == [answers[0]] * len(answers), shortage

    def test_leaves_what_it_is_given_as_it_is(self, make_evictor: Callable[[], Evictor]) -> None:
        shortage = _shortage(1)
        candidates = list(shortage.candidates)

        make_evictor().choose(candidates, needed_bytes=shortage.needed_bytes, now=_NOW)

        assert tuple(candidates) == shortage.candidates

    def test_takes_everything_where_everything_is_needed(
        self, make_evictor: Callable[[], Evictor]
    ) -> None:
        candidates = _shortage(2).candidates
        shortage = _Shortage(
            candidates=candidates, needed_bytes=sum(each.size_bytes for each in candidates)
        )

        chosen = shortage.asked(make_evictor())

        assert set(chosen) == {each.reference for each in candidates}

    def test_takes_nothing_where_nothing_is_needed(
        self, make_evictor: Callable[[], Evictor]
    ) -> None:
        evictor = make_evictor()

        assert list(evictor.choose(_shortage(3).candidates, needed_bytes=0, now=_NOW)) == []
        assert list(evictor.choose((), needed_bytes=0, now=_NOW)) == []


def _shortages() -> Iterator[_Shortage]:
    return map(_shortage, range(_N_SHORTAGES))


def _shortage(seed: int) -> _Shortage:
    rng = random.Random(f"shortage {seed}")
    candidates = tuple(_candidate(rng, number) for number in range(rng.randint(1, 12)))
    total_bytes = sum(each.size_bytes for each in candidates)
    return _Shortage(candidates=candidates, needed_bytes=rng.randint(1, total_bytes))


def _candidate(rng: random.Random, number: int) -> Evictable:
    return Evictable(
        reference=Reference(f"model-{number}"),
        size_bytes=rng.choice([1, 7, 7, 100, rng.randint(1, 1_000_000)]),
        last_used=rng.choice([0.0, _NOW, rng.uniform(0.0, _NOW)]),
        load_seconds=rng.choice([0.0, 1.0, rng.uniform(0.0, 100.0)]),
        uses_per_second=rng.choice([0.0, 0.01, rng.expovariate(100.0)]),
    )
