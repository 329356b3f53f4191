"""Ranges of shared chunks that nobody holds."""

from __future__ import annotations

from bisect import bisect
from collections.abc import Iterator
from typing import NamedTuple

from pilotlight.native_loader.formats.parts import Place


class Gap(NamedTuple):
    """A range of a chunk."""

    chunk: int
    offset: int
    length: int


class Gaps:
    """The gaps of some chunks, in order; no two touch each other. Not thread-safe."""

    def __init__(self) -> None:
        self._gaps: list[Gap] = []

    def __iter__(self) -> Iterator[Gap]:
        return iter(self._gaps)

    def take(self, length: int) -> Place | None:
        """Take a range from the narrowest gap that has it, the lowest of those; None if none has.

        So wide gaps stay for those who need them.
        """
        wide = [gap for gap in self._gaps if gap.length >= length]
        if not wide:
            return None
        gap = min(wide, key=lambda gap: gap.length)
        at = self._gaps.index(gap)
        rest = Gap(gap.chunk, gap.offset + length, gap.length - length)
        self._gaps[at : at + 1] = [rest] if rest.length else []
        return Place(chunk=gap.chunk, offset=gap.offset)

    def give_back(self, gap: Gap) -> None:
        """Put a range back, or add one."""
        at = bisect(self._gaps, gap)
        first, last = at, at
        if at and _touch(self._gaps[at - 1], gap):
            first -= 1
            gap = _joined(self._gaps[first], gap)
        if at < len(self._gaps) and _touch(gap, self._gaps[at]):
            gap = _joined(gap, self._gaps[at])
            last += 1
        self._gaps[first:last] = [gap]

    def remove(self, gap: Gap) -> None:
        """Forget a gap; it is one of them."""
        self._gaps.remove(gap)


def _touch(lower: Gap, higher: Gap) -> bool:
    return (lower.chunk, lower.offset + lower.length) == (higher.chunk, higher.offset)


def _joined(lower: Gap, higher: Gap) -> Gap:
    return lower._replace(length=lower.length + higher.length)
