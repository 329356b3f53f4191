"""What devices are worth from moment to moment: the dual of keeping models on too few of them.

Theory of operation. Give a device a price per second at every moment. Whatever a
policy does, the devices that models do without at a moment are at least those by
which all models that are between two of their requests exceed the cluster. So the
waiting is at least what the prices ask for those, less what each gap could earn by
itself: its devices' price over the gap, if that is more than the start that it then
costs. That holds for all prices; the best are found by subgradient ascent.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pilotlight.scheduler.simulation.bound.gaps import Gaps
from pilotlight.scheduler.simulation.bound.run_problem import Bools, Floats, Ints
from pilotlight.scheduler.simulation.bound.wants import Wants

ROUNDS = 400
_PATIENCE = 10
"""Rounds without progress before the target is taken nearer."""
_LEAST_REACH = 1e-4
"""Of the best so far: where the search ends."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prices:
    """A piecewise constant price per device and second, and what it proves."""

    edges: Floats
    """[C + 1] seconds."""
    per_second: Floats
    """[C]."""
    waiting_seconds: float
    """That the waiting is at least, beyond what the models' first starts cost."""


def best_prices(
    gaps: Gaps, wants: Wants, edges: Floats, *, n_devices: int, rounds: int = ROUNDS
) -> Prices:
    """Return the best prices found, constant between `edges`, which rise and span the run.

    Subgradient ascent with Polyak's step towards a target a little above the best so
    far (Brannlund's level method); a cell's step is the shorter the longer it is.
    """
    dual = Dual(gaps, wants, edges, n_devices=n_devices)
    prices = np.zeros(len(edges) - 1)
    value, slope = dual.value(prices)
    best, best_prices = value, prices
    reach, stale = 0.25 * (gaps.first_cost + float(gaps.cost.sum())), 0
    for _ in range(rounds):
        steepness = float((slope**2 / dual.lengths).sum())
        if steepness == 0.0 or reach <= _LEAST_REACH * best:
            break
        prices = prices + (best + reach - value) / steepness * slope / dual.lengths
        prices = np.maximum(prices, 0.0)
        value, slope = dual.value(prices)
        stale += 1
        if value > best + 0.1 * reach:
            stale = 0
        if value > best:
            best, best_prices = value, prices
        if stale >= _PATIENCE:
            reach, stale, prices = 0.5 * reach, 0, best_prices
            value, slope = dual.value(prices)
    return Prices(edges=edges, per_second=best_prices, waiting_seconds=best)


class Dual:
    """The bound as a function of prices, on one division of time into cells."""

    def __init__(self, gaps: Gaps, wants: Wants, edges: Floats, *, n_devices: int) -> None:
        self._cost, self._devices = gaps.cost, gaps.devices.astype(np.float64)
        self._lengths = np.diff(edges)
        self._begin, self._begin_share = _places(gaps.begin, edges)
        self._end, self._end_share = _places(gaps.end, edges)
        kinds, row = np.unique(
            np.stack([wants.devices, wants.n_waiting]), axis=1, return_inverse=True
        )
        self._kinds, self._rates = kinds.astype(np.float64)[:, :, None]
        self._asked = np.stack(
            [_wanted_seconds(wants, edges, row == kind) for kind in range(kinds.shape[1])]
        )
        """[kinds, cells] seconds of a cell, for all replicas that are wanted."""
        wanted = (self._kinds * self._asked).sum(axis=0)
        self.short = wanted - n_devices * self._lengths
        """[cells] device-seconds by which what is wanted exceeds the cluster."""

    @property
    def lengths(self) -> Floats:
        """Return [cells] seconds."""
        return self._lengths

    def value(self, prices: Floats) -> tuple[float, Floats]:
        """Return what prices prove, in seconds, and [cells] how it changes with them."""
        worth = np.concatenate([[0.0], np.cumsum(prices * self._lengths)])
        padded = np.append(prices * self._lengths, 0.0)
        ends = worth[self._end] + padded[self._end] * self._end_share
        begins = worth[self._begin] + padded[self._begin] * self._begin_share
        earned = self._devices * (ends - begins) - self._cost
        is_gone = earned > 0.0
        # While somebody waits, the model does without devices at one second's waiting each.
        above = self._kinds * prices - self._rates
        is_above = above > 0.0
        value = float(prices @ self.short) - float(earned[is_gone].sum())
        value -= float((above * self._asked)[is_above].sum())
        slope = self.short - self._used(is_gone)
        slope -= (self._kinds * self._asked * is_above).sum(axis=0)
        return value, slope

    def _used(self, is_gone: Bools) -> Floats:
        """Return [cells] the device-seconds of these gaps."""
        n_cells = len(self._lengths)
        devices = self._devices[is_gone]
        begin, end = self._begin[is_gone], self._end[is_gone]
        steps = np.bincount(begin, devices, n_cells + 1) - np.bincount(end, devices, n_cells + 1)
        shares = np.bincount(end, devices * self._end_share[is_gone], n_cells + 1)
        shares -= np.bincount(begin, devices * self._begin_share[is_gone], n_cells + 1)
        used: Floats = (np.cumsum(steps) + shares)[:n_cells] * self._lengths
        return used


def _places(times: Floats, edges: Floats) -> tuple[Ints, Floats]:
    """Return the cells that times lie in, and which share of them lies before."""
    cells = np.clip(np.searchsorted(edges, times, side="right") - 1, 0, len(edges) - 2)
    shares = (times - edges[cells]) / (edges[cells + 1] - edges[cells])
    return cells, np.clip(shares, 0.0, 1.0)


def _wanted_seconds(wants: Wants, edges: Floats, rows: Bools) -> Floats:
    """Return [cells] the seconds for which such replicas are wanted."""
    n_replicas = wants.n_replicas[rows].astype(np.float64)
    since = _seconds_after(wants.begin[rows], n_replicas, edges)
    return since - _seconds_after(wants.end[rows], n_replicas, edges)


def _seconds_after(times: Floats, weights: Floats, edges: Floats) -> Floats:
    """Return [cells] the seconds after each time, summed over the times by their weights."""
    cells, shares = _places(times, edges)
    n_cells = len(edges) - 1
    counts = np.cumsum(np.bincount(cells, weights, n_cells))
    counts -= np.bincount(cells, weights * shares, n_cells)
    seconds: Floats = counts * np.diff(edges)
    return seconds
