from __future__ import annotations

from collections.abc import Sequence

import pytest

from pilotlight.process.errors import PluginError
from pilotlight.store_node.core import Evictable
from pilotlight.store_node.errors import UnknownEngine
from pilotlight.store_node.protocol import Reference
from pilotlight.store_node.shell.plugins import GuardedEvictor, find_engines, find_evictor


def evictable(name: str, *, last_used: float, uses_per_second: float) -> Evictable:
    return Evictable(
        reference=Reference(name),
        size_bytes=10,
        last_used=last_used,
        load_seconds=1.0,
        uses_per_second=uses_per_second,
    )


CANDIDATES = [
    evictable("young", last_used=2.0, uses_per_second=0.1),
    evictable("old", last_used=1.0, uses_per_second=0.2),
]


@pytest.mark.parametrize(("name", "chosen"), [("lru", ["old"]), ("value", ["young"])])
def test_built_in_evictors_are_found_by_their_entry_points(name: str, chosen: list[str]) -> None:
    evictor = find_evictor(name)

    assert list(evictor.choose(CANDIDATES, needed_bytes=5, now=3.0)) == chosen


def test_unknown_evictor_is_refused_with_what_there_is() -> None:
    with pytest.raises(PluginError, match="lru"):
        find_evictor("nothing")


class FailingEvictor:
    def __init__(self) -> None:
        self.n_calls = 0

    def choose(
        self, candidates: Sequence[Evictable], *, needed_bytes: int, now: float
    ) -> Sequence[Reference]:
        self.n_calls += 1
        raise ZeroDivisionError


def test_evictor_that_fails_is_replaced() -> None:
    failing = FailingEvictor()
    evictor = GuardedEvictor("failing", failing)

    chosen = [list(evictor.choose(CANDIDATES, needed_bytes=5, now=3.0)) for _ in range(2)]

    assert chosen == [["old"], ["old"]]
    assert failing.n_calls == 1


def test_engines_that_are_asked_for_must_be_there() -> None:
    assert list(find_engines(["timed"]).versions) == ["timed"]
    with pytest.raises(UnknownEngine):
        find_engines(["timed", "no-such-engine"])


def test_all_installed_engines_are_the_default() -> None:
    engines = find_engines(())

    assert "timed" in engines.versions
    assert engines.targets.keys() == engines.versions.keys()
