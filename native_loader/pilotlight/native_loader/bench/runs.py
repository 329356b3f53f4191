"""All that a bench has measured, and how to find one thing in it."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from pilotlight.native_loader.bench.measuring import Mishaps
from pilotlight.native_loader.bench.messages import Loaded
from pilotlight.native_loader.bench.recipes import Layout

ONE_BY_ONE = "one-by-one"
FIO = "fio"
LINK = "link"
"""The copy that is the limit of a GPU's link."""
SLICED = "sliced for "
"""Begins the name of a load for several devices."""
FROM_POOL = "pool-to-gpu"
"""What copies to a GPU from a pool that holds all of it."""
EACH = " each"
"""Ends the name of a reader that takes files one after another."""

OURS = (
    *("pool", "fresh", "batch", "fresh-batch", ONE_BY_ONE, "attach"),
    *("gpu", "fresh-gpu", FROM_POOL),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One loader, once."""

    part: str
    checkpoint: str
    layout: Layout
    loader: str
    round: int
    loaded: Loaded


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """What loaders are compared on."""

    part: str
    checkpoint: str
    layout: Layout


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """Everything; a part that was not asked for has no runs."""

    runs: Sequence[Run]
    sizes_bytes: Mapping[str, int] = field(default_factory=dict[str, int])
    """Of the tensors of each checkpoint."""
    versions: Mapping[str, str] = field(default_factory=dict[str, str])
    """Of the peers' packages."""
    missing: Mapping[str, str] = field(default_factory=dict[str, str])
    """Packages that could not be had, and why."""
    mishaps: Mishaps = field(default_factory=Mishaps)
    held_bytes: int = 0
    """Of the pool that other processes attached,"""
    held_huge_bytes: int = 0
    """and the part of it that has huge pages."""
    notes: Sequence[str] = ()
    """What else is to be known: no compiler, say."""

    def places(self, part: str) -> list[Place]:
        """Return where something was measured in a part, in the order of measuring."""
        found = [
            Place(part=part, checkpoint=run.checkpoint, layout=run.layout)
            for run in self.runs
            if run.part == part
        ]
        return list(dict.fromkeys(found))

    def loaders(self, place: Place) -> list[str]:
        """Return who was measured there, ours first, then by name, readers last."""
        found = {run.loader for run in self.at(place)}
        return sorted(found, key=lambda name: (name not in OURS, is_reader(name), name))

    def loaded(self, place: Place, loader: str) -> dict[int, Loaded]:
        """Return one loader's runs there by round."""
        return {run.round: run.loaded for run in self.at(place) if run.loader == loader}

    def seconds(
        self, place: Place, loader: str, seconds_of: Callable[[Loaded], float]
    ) -> dict[int, float]:
        """Return one loader's seconds there by round."""
        return {number: seconds_of(run) for number, run in self.loaded(place, loader).items()}

    def limit(self, place: Place, *, is_each: bool = False) -> str | None:
        """Return the reader that is the limit there: the one whose median is the least."""
        medians = {
            name: statistics.median(self.seconds(place, name, load_seconds).values())
            for name in self.loaders(place)
            if is_reader(name) and name != LINK and name.endswith(EACH) is is_each
        }
        return min(medians, key=lambda name: medians[name]) if medians else None

    def limit_seconds(self, place: Place, loader: str) -> dict[int, float]:
        """Return what a loader can't be faster than there, by round.

        That is the disk's limit; on the way to a GPU the link's too, or that alone
        for who reads nothing from the disk.
        """
        limit = self.limit(place)
        disk = {} if limit is None else self.seconds(place, limit, load_seconds)
        if place.part != "gpu":
            return disk
        link = self.seconds(place, LINK, load_seconds)
        if loader == FROM_POOL:
            return link
        return {number: max(disk[number], link[number]) for number in disk.keys() & link.keys()}

    def at(self, place: Place) -> list[Run]:
        """Return all runs there, in the order of measuring."""
        return [
            run
            for run in self.runs
            if (run.part, run.checkpoint, run.layout)
            == (place.part, place.checkpoint, place.layout)
        ]


def is_reader(loader: str) -> bool:
    """Whether it reads bytes and makes no tensors of them."""
    return loader.startswith(("raw ", FIO, LINK))


def load_seconds(loaded: Loaded) -> float:
    """Return the seconds until tensors were there."""
    return loaded.load_seconds


def total_seconds(loaded: Loaded) -> float:
    """Return the seconds until every page was touched."""
    return loaded.total_seconds


def each_seconds(loaded: Loaded) -> float:
    """Return the median seconds of one of several checkpoints."""
    return statistics.median(loaded.each_seconds)
