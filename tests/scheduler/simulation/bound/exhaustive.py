"""The least waiting of a tiny run, by trying out all that a policy of the bound's class may do.

Between two events (an arrival, a replica that gets ready, a request that ends)
nothing changes, so it is enough to decide at events. There, any number of waiting
requests may be placed, and any starts made that somebody waits for, on free devices
or those of idle replicas. A replica is stopped only where another takes its devices;
one that has served nobody was started for nothing.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator
from dataclasses import dataclass

Waiting = tuple[int, ...]
"""Requests by model."""


@dataclass(frozen=True, slots=True, order=True)
class Replica:
    """One replica; times are whole seconds."""

    model: int
    ready_at: int
    """0 once it is."""
    ends: tuple[int, ...] = ()
    """When the requests end that it serves."""
    has_served: bool = False


Replicas = tuple[Replica, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class TinyRun:
    """A few requests; of one model, all are held equally long."""

    arrived_at: tuple[int, ...]
    model: tuple[int, ...]
    hold_seconds: tuple[int, ...]
    """By model, as all that follows."""
    devices: tuple[int, ...]
    concurrency: tuple[int, ...]
    first_start_seconds: tuple[int, ...]
    next_start_seconds: tuple[int, ...]
    n_devices: int

    @property
    def n_models(self) -> int:
        """Return how many models there are."""
        return len(self.devices)


def least_waiting(run: TinyRun) -> int:
    """Return the sum of all requests' waiting, in seconds, under the best schedule."""
    first_ready = [
        run.arrived_at[run.model.index(model)] + run.first_start_seconds[model]
        if model in run.model
        else 0
        for model in range(run.n_models)
    ]

    @functools.cache
    def least_from(now: int, come: int, waiting: Waiting, replicas: Replicas) -> float:
        if come == len(run.model) and not any(waiting):
            return 0.0
        best = float("inf")
        for left, placed in _placings(run, now, waiting, replicas):
            for started in _starts(run, first_ready, now, left, placed):
                then = _next_event(run, now, come, started)
                cost = sum(left) * (then - now) if then is not None else best
                if then is None or cost >= best:
                    continue
                arrived, line = _arrivals(run, then, come, left)
                best = min(best, cost + least_from(then, arrived, line, _at(started, then)))
        return best

    begin = run.arrived_at[0]
    come, waiting = _arrivals(run, begin, 0, (0,) * run.n_models)
    return int(least_from(begin, come, waiting, ()))


def _arrivals(run: TinyRun, now: int, come: int, waiting: Waiting) -> tuple[int, Waiting]:
    line = list(waiting)
    while come < len(run.model) and run.arrived_at[come] <= now:
        line[run.model[come]] += 1
        come += 1
    return come, tuple(line)


def _at(replicas: Replicas, now: int) -> Replicas:
    """Return replicas as they are at a time: equal ones are equal, whatever was."""
    return tuple(
        sorted(
            Replica(
                each.model,
                each.ready_at if each.ready_at > now else 0,
                tuple(end for end in each.ends if end > now),
                each.has_served,
            )
            for each in replicas
        )
    )


def _next_event(run: TinyRun, now: int, come: int, replicas: Replicas) -> int | None:
    times = [each.ready_at for each in replicas] + [end for each in replicas for end in each.ends]
    if come < len(run.model):
        times.append(run.arrived_at[come])
    return min((time for time in times if time > now), default=None)


def _placings(
    run: TinyRun, now: int, waiting: Waiting, replicas: Replicas
) -> Iterator[tuple[Waiting, Replicas]]:
    """Yield all ways to place some of those who wait, the most of them first."""
    rooms = [
        sum(
            run.concurrency[model] - len(each.ends)
            for each in replicas
            if each.model == model and each.ready_at <= now
        )
        for model in range(run.n_models)
    ]
    choices = [range(min(r, w), -1, -1) for r, w in zip(rooms, waiting, strict=True)]
    for counts in itertools.product(*choices):
        left = tuple(w - n for w, n in zip(waiting, counts, strict=True))
        for placed in set(_distributions(run, now, counts, replicas)):
            yield left, placed


def _distributions(
    run: TinyRun, now: int, counts: tuple[int, ...], replicas: Replicas
) -> Iterator[Replicas]:
    model = next((row for row, count in enumerate(counts) if count), None)
    if model is None:
        yield replicas
        return
    fewer = tuple(count - (row == model) for row, count in enumerate(counts))
    for row, each in enumerate(replicas):
        can_take = each.model == model and each.ready_at <= now
        if not can_take or len(each.ends) >= run.concurrency[model]:
            continue
        ends = tuple(sorted((*each.ends, now + run.hold_seconds[model])))
        busy = Replica(model, 0, ends, has_served=True)
        yield from _distributions(
            run, now, fewer, tuple(sorted((*replicas[:row], *replicas[row + 1 :], busy)))
        )


def _starts(
    run: TinyRun, first_ready: list[int], now: int, waiting: Waiting, replicas: Replicas
) -> Iterator[Replicas]:
    """Yield all ways to start replicas, none at all first."""
    seen = {replicas}
    open_ways = [replicas]
    while open_ways:
        way = open_ways.pop()
        yield way
        for model, wait in enumerate(waiting):
            starting = sum(each.model == model and each.ready_at > now for each in way)
            if starting * run.concurrency[model] >= wait:
                continue
            ready = max(now + run.next_start_seconds[model], first_ready[model])
            for kept in _rooms_for(run, model, now, way):
                started = tuple(sorted((*kept, Replica(model, ready))))
                if started not in seen:
                    seen.add(started)
                    open_ways.append(started)


def _rooms_for(run: TinyRun, model: int, now: int, replicas: Replicas) -> Iterator[Replicas]:
    """Yield the replicas that stay, for each way to have enough devices."""
    free = run.n_devices - sum(run.devices[each.model] for each in replicas)
    if free >= run.devices[model]:
        yield replicas
        return
    idle = [
        row
        for row, each in enumerate(replicas)
        if each.has_served and not each.ends and each.model != model
    ]
    for n_victims in range(1, len(idle) + 1):
        for victims in itertools.combinations(idle, n_victims):
            freed = [run.devices[replicas[row].model] for row in victims]
            missing = run.devices[model] - free
            if sum(freed) >= missing > sum(freed) - min(freed):
                yield tuple(each for row, each in enumerate(replicas) if row not in victims)
