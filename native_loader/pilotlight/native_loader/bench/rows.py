"""What all runs of one thing together say: medians, and ratios round by round."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable
from typing import Any

from pilotlight.native_loader.bench.ablations import STEPS
from pilotlight.native_loader.bench.messages import Loaded
from pilotlight.native_loader.bench.ratios import Ratio, ratio_of
from pilotlight.native_loader.bench.recipes import Layout
from pilotlight.native_loader.bench.runs import (
    ONE_BY_ONE,
    OURS,
    Measured,
    Place,
    each_seconds,
    is_reader,
    load_seconds,
    total_seconds,
)

Row = dict[str, Any]


def load_rows(measured: Measured, part: str) -> list[Row]:
    """Return a row for each loader and layout of a part."""
    return [
        _load_row(measured, place, loader)
        for place in measured.places(part)
        for loader in measured.loaders(place)
    ]


def comparison_rows(measured: Measured, part: str) -> list[Row]:
    """Return a row for each of ours, layout and peer: how many times as fast ours is."""
    rows: list[Row] = []
    for place in measured.places(part):
        for ours in [each for each in measured.loaders(place) if each in OURS]:
            seconds = measured.seconds(place, ours, total_seconds)
            for peer, there in _peers(measured, place, ours).items():
                ratio = ratio_of(measured.seconds(there, peer, total_seconds), seconds)
                if ratio is not None:
                    rows.append(_comparison_row(place, ours, peer, there, ratio))
    return rows


def adapter_rows(measured: Measured) -> list[Row]:
    """Return a row for each loader of many adapters: all of them, and one of them."""
    return [
        {
            **_load_row(measured, place, loader),
            "one_seconds": median_of(
                each_seconds(run)
                for run in measured.loaded(place, loader).values()
                if run.each_seconds
            ),
            "one_of_limit": median_ratio(one_to_limit(measured, place, loader)),
        }
        for place in measured.places("adapters")
        for loader in measured.loaders(place)
    ]


def slice_rows(measured: Measured) -> list[Row]:
    """Return a row for each number of devices: how much was read for all of them."""
    return [
        {
            "checkpoint": place.checkpoint,
            "loader": loader,
            "load_seconds": median_of(run.load_seconds for run in runs),
            "disk_ratio": max(run.bytes_read for run in runs)
            / measured.sizes_bytes[place.checkpoint],
        }
        for place in measured.places("slices")
        for loader in measured.loaders(place)
        if (runs := list(measured.loaded(place, loader).values()))
    ]


def ablation_rows(measured: Measured) -> list[Row]:
    """Return a row for each step: its speed, and how many times that of the step before."""
    rows: list[Row] = []
    for place in measured.places("ablation"):
        size_bytes = measured.sizes_bytes[place.checkpoint]
        before: dict[int, float] = {}
        measured_steps = set(measured.loaders(place))
        for step in [each for each in STEPS if each in measured_steps]:
            seconds = measured.seconds(place, step, load_seconds)
            middle = statistics.median(seconds.values())
            rows.append(
                {
                    "checkpoint": place.checkpoint,
                    "step": step,
                    "load_seconds": middle,
                    "bytes_per_second": size_bytes / middle,
                    "gain": median_ratio(ratio_of(before, seconds)),
                }
            )
            before = seconds
    return rows


def _load_row(measured: Measured, place: Place, loader: str) -> Row:
    runs = list(measured.loaded(place, loader).values())
    size_bytes = measured.sizes_bytes[place.checkpoint]
    seconds = statistics.median(run.total_seconds for run in runs)
    return {
        "checkpoint": place.checkpoint,
        "layout": str(place.layout),
        "loader": loader,
        "load_seconds": median_of(run.load_seconds for run in runs),
        "total_seconds": seconds,
        "bytes_per_second": size_bytes / seconds,
        "load_of_limit": (
            median_ratio(to_limit(measured, place, loader, load_seconds))
            if loader in OURS
            else None
        ),
        "of_limit": median_ratio(to_limit(measured, place, loader, total_seconds)),
        "cpu_seconds": median_of(run.cpu_seconds for run in runs),
        "peak_bytes": median_of(run.peak_bytes for run in runs if run.peak_bytes is not None),
        "share_bytes": median_of(run.share_bytes for run in runs if run.share_bytes is not None),
        "pool_bytes": median_of(run.pool_bytes for run in runs if run.pool_bytes is not None),
        "huge_bytes": median_of(run.huge_bytes for run in runs if run.huge_bytes is not None),
        "attach_seconds": median_of(
            run.attach_seconds for run in runs if run.attach_seconds is not None
        ),
        "bytes_read": median_of(run.bytes_read for run in runs),
        "runs": len(runs),
        "bottleneck": runs[-1].bottleneck,
        "is_limit": loader == measured.limit(place),
    }


def _comparison_row(place: Place, ours: str, peer: str, there: Place, ratio: Ratio) -> Row:
    return {
        "checkpoint": place.checkpoint,
        "layout": str(place.layout),
        "ours": ours,
        "peer": peer,
        "peer_layout": str(there.layout),
        "ratio": ratio.median,
        "low": ratio.low,
        "high": ratio.high,
        "ahead": "ahead" if ratio.is_ahead else "NOT AHEAD",
        "pairs": ratio.n,
    }


def _peers(measured: Measured, place: Place, ours: str) -> dict[str, Place]:
    """Return who ours is compared with at a place: where it loaded the same tensors from.

    That is the same layout where it can read it, the one file otherwise, or what its
    users have. One by one is compared with one by one.
    """
    rank = {place.layout: 0, Layout.SINGLE: 1}
    there = [each for each in measured.places(place.part) if each.checkpoint == place.checkpoint]
    found: dict[str, Place] = {}
    if not any(loader in OURS for loader in measured.loaders(place)):
        return found
    for each in sorted(there, key=lambda each: rank.get(each.layout, 2)):
        for loader in measured.loaders(each):
            is_peer = loader not in OURS and not is_reader(loader)
            if is_peer and (ours != ONE_BY_ONE or _is_one_by_one(measured, each, loader)):
                found.setdefault(loader, each)
    return found


def to_limit(
    measured: Measured, place: Place, loader: str, seconds_of: Callable[[Loaded], float]
) -> Ratio | None:
    """Return which part of the limit a loader reached."""
    where = place
    if is_reader(loader):
        return None
    if measured.limit(place) is None:
        # Other libraries' formats hold the same bytes as the one file.
        where = Place(part=place.part, checkpoint=place.checkpoint, layout=Layout.SINGLE)
    return ratio_of(
        measured.limit_seconds(where, loader), measured.seconds(place, loader, seconds_of)
    )


def one_to_limit(measured: Measured, place: Place, loader: str) -> Ratio | None:
    """Return which part of the limit a loader reached with one of many checkpoints."""
    limit = measured.limit(place, is_each=True)
    if limit is None or is_reader(loader) or not _is_one_by_one(measured, place, loader):
        return None
    return ratio_of(
        measured.seconds(place, limit, each_seconds),
        measured.seconds(place, loader, each_seconds),
    )


def _is_one_by_one(measured: Measured, place: Place, loader: str) -> bool:
    return all(run.each_seconds for run in measured.loaded(place, loader).values())


def median_of(values: Iterable[float]) -> float | None:
    """Return the median; None of nothing."""
    found = list(values)
    return statistics.median(found) if found else None


def median_ratio(ratio: Ratio | None) -> float | None:
    """Return a ratio's median, if there is a ratio."""
    return None if ratio is None else ratio.median
