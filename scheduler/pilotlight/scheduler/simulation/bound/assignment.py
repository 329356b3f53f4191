"""Requests, places of disks and devices: a linear relaxation, and the bound that it proves."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pilotlight.scheduler.simulation.bound.linear_program import LinearProgram, solve
from pilotlight.scheduler.simulation.bound.run_problem import Bools, Floats, Ints

_COLUMNS_PER_MODEL = 8
"""That are added in a round."""
_ROUNDS = 60
_GAP = 1e-6
"""Of the bound that may be left unproven."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """M models' requests to places on C channels and the devices of N nodes."""

    n_requests: Ints
    """[M]."""
    n_placeable: Ints
    """[M] of them may get a place, at most."""
    cost: Floats
    """[M, N] seconds of a request in the last place; infinite where it can't be."""
    share: Floats
    """[M, N] seconds that it makes each request wait that comes after it on its channel."""
    channel: Ints
    """[M, N]; -1 = it waits for no others."""
    devices: Floats
    """[M] that one request needs."""
    n_devices: Ints
    """[N]."""
    unplaced_seconds: float
    n_places: int
    """That are told apart, the last from the end the first; any number fits in the last one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Multipliers:
    """What a place and a device are worth, none below 0."""

    place: Floats
    """[C + 1, places]; those of the last row, which is for no channel, and of the last place
    are 0."""
    device: Floats
    """[N]."""


def bound_of(assignment: Assignment) -> float:
    """Return a number that no assignment costs less than.

    Columns are generated where the multipliers so far say that they may help; each
    round's multipliers prove a bound by themselves, and the best one is returned.
    """
    n_channels = int(assignment.channel.max(initial=-1)) + 1
    multipliers = _Multipliers(
        place=np.zeros((n_channels + 1, assignment.n_places)),
        device=np.zeros(len(assignment.n_devices)),
    )
    costs = _costs(assignment)
    columns = np.zeros(costs.shape, np.bool_)
    best = 0.0
    for _ in range(_ROUNDS):
        prices = _priced(assignment, costs, multipliers)
        best = max(best, _proven(assignment, prices, multipliers))
        if not _add_columns(columns, prices, assignment):
            break
        solution = _solve(assignment, costs, columns, n_channels)
        if solution is None or solution[0] - best <= _GAP * best:
            break
        multipliers = solution[1]
    return best


def _costs(assignment: Assignment) -> Floats:
    """Return [M, N, places] the seconds of a request there; infinite where it can't be."""
    later = np.arange(assignment.n_places, dtype=np.float64)
    costs = assignment.cost[:, :, None] + assignment.share[:, :, None] * later
    # What waits for nobody has one place.
    costs[:, :, 1:][assignment.channel < 0] = np.inf
    return costs


def _priced(assignment: Assignment, costs: Floats, multipliers: _Multipliers) -> Floats:
    """Return [M, N, places] the costs with what their place and devices are worth."""
    devices = assignment.devices[:, None] * multipliers.device
    priced: Floats = costs + multipliers.place[assignment.channel] + devices[:, :, None]
    return priced


def _proven(assignment: Assignment, prices: Floats, multipliers: _Multipliers) -> float:
    """Return the bound that multipliers prove, whatever they are (weak duality)."""
    cheapest = prices.min(axis=(1, 2), initial=assignment.unplaced_seconds)
    unplaceable = assignment.n_requests - assignment.n_placeable
    value = float(cheapest @ assignment.n_placeable)
    value += assignment.unplaced_seconds * float(unplaceable.sum())
    value -= float(multipliers.place.sum())
    return value - float(multipliers.device @ assignment.n_devices)


def _add_columns(columns: Bools, prices: Floats, assignment: Assignment) -> int:
    """Mark the cheapest columns of each model that are not used yet; return how many.

    What costs more than no place at all is left out.
    """
    n_added = 0
    for model, used in enumerate(columns):
        fresh = np.where(used, np.inf, prices[model]).ravel()
        rows = np.argsort(fresh, kind="stable")[:_COLUMNS_PER_MODEL]
        chosen = rows[fresh[rows] < assignment.unplaced_seconds]
        used.ravel()[chosen] = True
        n_added += len(chosen)
    return n_added


def _solve(
    assignment: Assignment, costs: Floats, columns: Bools, n_channels: int
) -> tuple[float, _Multipliers] | None:
    """Return the least cost with these columns only, and its multipliers."""
    model, node, place = np.nonzero(columns)
    channel = assignment.channel[model, node]
    n_models, n_nodes, n_places = len(columns), len(assignment.n_devices), assignment.n_places
    # Rows: all requests of a model, some of which have no place, its devices, and the places.
    device_row = 2 * n_models + node
    place_row = 2 * n_models + n_nodes + channel * (n_places - 1) + place
    is_told_apart = (channel >= 0) & (place < n_places - 1)
    n_columns = len(model)
    placed, unplaced = np.arange(n_columns), n_columns + np.arange(n_models)
    models = np.arange(n_models)
    terms = [
        (model, placed, np.ones(n_columns)),
        (models, unplaced, np.ones(n_models)),
        (n_models + models, unplaced, np.ones(n_models)),
        (device_row, placed, -assignment.devices[model]),
        (place_row[is_told_apart], placed[is_told_apart], -np.ones(int(is_told_apart.sum()))),
    ]
    solution = solve(
        LinearProgram(
            cost=np.append(costs[columns], np.full(n_models, assignment.unplaced_seconds)),
            most=np.full(n_columns + n_models, np.inf),
            floor=np.concatenate(
                [
                    assignment.n_requests,
                    assignment.n_requests - assignment.n_placeable,
                    -assignment.n_devices,
                    -np.ones(n_channels * (n_places - 1)),
                ]
            ).astype(np.float64),
            row=np.concatenate([rows for rows, _, _ in terms]),
            column=np.concatenate([numbers for _, numbers, _ in terms]),
            factor=np.concatenate([factors for _, _, factors in terms]),
        )
    )
    if solution is None:
        return None
    place_value = np.zeros((n_channels + 1, n_places))
    values = solution.multipliers[2 * n_models + n_nodes :]
    place_value[:-1, :-1] = values.reshape(n_channels, n_places - 1)
    device_value = solution.multipliers[2 * n_models : 2 * n_models + n_nodes]
    return solution.cost, _Multipliers(place=place_value, device=device_value)
