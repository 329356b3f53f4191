"""Simple policies on one pool of devices, for runs that are too large to search.

Whoever waits has as many replicas started as his model's line fills, where devices
are free or idle replicas can go; the policies differ in which of these go. Starts
take what the bound says at least, or longer.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from random import Random

import numpy as np
import numpy.typing as npt

from pilotlight.scheduler.simulation.bound import RunProblem


@dataclass(slots=True, eq=False)
class Pooled:
    """One replica."""

    model: int
    is_ready: bool = False
    running: int = 0
    used_at: float = 0.0


Choice = Callable[["Pool", list[Pooled]], Pooled]
"""Says which of the idle replicas goes first."""


def longest_idle(pool: Pool, idle: list[Pooled]) -> Pooled:
    """Stop what was used longest ago."""
    return min(idle, key=lambda each: each.used_at)


def at_random(pool: Pool, idle: list[Pooled]) -> Pooled:
    """Stop anything."""
    return pool.draw.choice(idle)


def last_needed(pool: Pool, idle: list[Pooled]) -> Pooled:
    """Stop what is asked for last, as only somebody who knows all arrivals can (Belady 1966)."""
    return max(idle, key=lambda each: pool.next_arrival(each.model))


@dataclass(slots=True)
class Pool:
    """One run; `waits` says how long each request waited for its place."""

    problem: RunProblem
    choose: Choice
    draw: Random
    slowness: float = 0.0
    """Starts take up to this share longer."""
    now: float = 0.0
    replicas: list[Pooled] = field(default_factory=list[Pooled])
    lines: dict[int, deque[int]] = field(default_factory=dict[int, deque[int]])
    asked_at: dict[int, float] = field(default_factory=dict[int, float])
    _events: list[tuple[float, int, Callable[[], None]]] = field(
        default_factory=list[tuple[float, int, Callable[[], None]]]
    )
    _number: int = 0
    _waits: npt.NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))

    def run(self) -> npt.NDArray[np.float64]:
        """Return [requests] the seconds of waiting."""
        self._waits = np.full(self.problem.n_requests, np.nan)
        for row, at in enumerate(self.problem.arrived_at.tolist()):
            self._at(at, partial(self._arrive, row))
        while self._events:
            self.now, _, action = heapq.heappop(self._events)
            action()
            self._place()
            self._start()
        return self._waits

    def next_arrival(self, model: int) -> float:
        """Return when a model is asked for next; infinite where never."""
        later = self.problem.arrived_at[self.problem.model == model]
        later = later[later > self.now]
        return float(later[0]) if len(later) else float("inf")

    def _at(self, at: float, action: Callable[[], None]) -> None:
        self._number += 1
        heapq.heappush(self._events, (at, self._number, action))

    def _arrive(self, row: int) -> None:
        model = int(self.problem.model[row])
        self.asked_at.setdefault(model, self.now)
        self.lines.setdefault(model, deque()).append(row)

    def _place(self) -> None:
        for each in self.replicas:
            line = self.lines.get(each.model)
            slots = int(self.problem.model_concurrency[each.model])
            while line and each.is_ready and each.running < slots:
                row = line.popleft()
                self._waits[row] = self.now - self.problem.arrived_at[row]
                each.running += 1
                end = self.now + float(self.problem.hold_seconds[row])
                self._at(end, partial(self._end, each))

    def _end(self, replica: Pooled) -> None:
        replica.running -= 1
        replica.used_at = self.now

    def _start(self) -> None:
        lines = [line for line in self.lines.items() if line[1]]
        for model, line in sorted(lines, key=lambda item: item[1][0]):
            starting = sum(r.model == model and not r.is_ready for r in self.replicas)
            slots = int(self.problem.model_concurrency[model])
            for _ in range(-(-len(line) // slots) - starting):
                if self._make_room(model):
                    self._begin(model)

    def _make_room(self, model: int) -> bool:
        devices = self.problem.model_devices
        free = self.problem.n_devices - sum(int(devices[r.model]) for r in self.replicas)
        idle = [r for r in self.replicas if r.is_ready and not r.running and r.model != model]
        if free + sum(int(devices[r.model]) for r in idle) < devices[model]:
            return False
        while free < devices[model]:
            victim = self.choose(self, idle)
            idle.remove(victim)
            self.replicas.remove(victim)
            free += int(devices[victim.model])
        return True

    def _begin(self, model: int) -> None:
        problem = self.problem
        longer = 1.0 + self.draw.uniform(0.0, self.slowness)
        ready = max(
            self.now + float(problem.next_start_seconds[model]) * longer,
            self.asked_at[model] + float(problem.first_start_seconds[model]),
        )
        replica = Pooled(model)
        self.replicas.append(replica)
        self._at(ready, partial(self._get_ready, replica))

    def _get_ready(self, replica: Pooled) -> None:
        replica.is_ready = True
        replica.used_at = self.now
