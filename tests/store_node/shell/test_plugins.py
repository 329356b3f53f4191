from __future__ import annotations

from collections.abc import Sequence

import pytest

from pilotlight.process.errors import PluginError
from pilotlight.store_node.core import Evictable
from pilotlight.store_node.errors import UnknownEngine
from pilotlight.store_node.protocol import Reference
from pilotlight.store_node.shell.plugins import GuardedEvictor, find_engines, find_evictor

CANDIDATES = [
    Evictable(reference=Reference("young"), size_bytes=10, last_used=2.0),
    Evictable(reference=Reference("old"), size_bytes=10, last_used=1.0),
]


def test_built_in_evictor_is_found_by_its_entry_point() -> None:
    evictor = find_evictor("lru")

    assert list(evictor.choose(CANDIDATES, needed_bytes=5, now=3.0)) == ["old"]


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
