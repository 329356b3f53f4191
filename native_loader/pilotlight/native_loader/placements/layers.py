"""Splitting a checkpoint's layers into consecutive ranges of about equal size."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from itertools import accumulate
from pathlib import Path

from pilotlight.native_loader.errors import TooManyPartitions
from pilotlight.native_loader.packing.tensor_order import Stage, stage_of


def split_layers(
    path: Path, sizes_bytes: Mapping[str, int], aliases: Mapping[str, str], n: int
) -> list[frozenset[str]]:
    """Return the names of the tensors of each of `n` ranges, from the first layer to the last.

    What comes before the layers is in the first range, what comes after them in the
    last; tensors with declared aliases are wherever one of their names is.

    Raises:
        TooManyPartitions: there are fewer layers than ranges.
    """
    numbers = sorted(
        {number for stage, number in map(stage_of, sizes_bytes) if stage is Stage.LAYER}
    )
    if n > max(len(numbers), 1):
        raise TooManyPartitions(path, n, len(numbers))
    last_layers = _last_layers(sizes_bytes, numbers, n)
    held: list[set[str]] = [set() for _ in range(n)]
    for name in sizes_bytes:
        held[_range_of(name, last_layers)].add(name)
    for alias, name in aliases.items():
        if name in sizes_bytes:
            held[_range_of(alias, last_layers)].add(name)
    return [frozenset(names) for names in held]


def _range_of(name: str, last_layers: Sequence[int]) -> int:
    stage, number = stage_of(name)
    if stage is Stage.LAYER:
        return bisect_left(last_layers, number)
    return 0 if stage is Stage.EMBEDDING else len(last_layers)


def _last_layers(sizes_bytes: Mapping[str, int], numbers: Sequence[int], n: int) -> list[int]:
    """Return the last layer of each range but the last one."""
    sizes = _sizes(sizes_bytes, numbers)
    low, high = max(sizes, default=0), sum(sizes)
    while low < high:
        middle = (low + high) // 2
        if len(_ends(sizes, middle)) <= n:
            high = middle
        else:
            low = middle + 1
    ends = _ends(sizes, low)
    # More ranges are as good as fewer, and each is to have a layer.
    spare = (end for end in range(1, len(numbers)) if end not in ends)
    while len(ends) < n and numbers:
        ends.append(next(spare))
    return [numbers[end - 1] for end in sorted(ends)[:-1]]


def _sizes(sizes_bytes: Mapping[str, int], numbers: Sequence[int]) -> list[int]:
    """Return each layer's size; the first has what comes before it, the last what comes after."""
    places = {number: place for place, number in enumerate(numbers)}
    sizes = [0] * len(numbers)
    for name, size_bytes in sizes_bytes.items():
        stage, number = stage_of(name)
        if sizes:
            outside = 0 if stage is Stage.EMBEDDING else -1
            sizes[places[number] if stage is Stage.LAYER else outside] += size_bytes
    return sizes


def _ends(sizes: Sequence[int], most_bytes: int) -> list[int]:
    """Return where ranges of at most that size end, filled from the front."""
    ends: list[int] = []
    begin = 0
    sums = list(accumulate(sizes, initial=0))
    while begin < len(sizes):
        end = bisect_right(sums, sums[begin] + most_bytes) - 1
        ends.append(end)
        begin = end
    return ends
