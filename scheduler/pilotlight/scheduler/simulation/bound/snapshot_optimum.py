"""The best plan for a small snapshot, found by CP-SAT and judged by the one evaluator.

Theory of operation. Loads of one disk don't overlap; all of them can begin before
devices are free, because a plan may fetch first. A start has its first token when
both its load and its worker, which waits for devices, are done. Integer
microseconds, always rounded down, so that what the solver proves is a bound; what
the plan costs is said by the evaluator and not by the solver.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pilotlight.estimators import Estimator
from pilotlight.scheduler.core.plan import AnyStep, Fetch, Plan, Start, StepId, Stop
from pilotlight.scheduler.core.snapshot import Snapshot
from pilotlight.scheduler.simulation.bound.errors import BoundInputError
from pilotlight.scheduler.simulation.bound.plan_cost import plan_cost
from pilotlight.scheduler.simulation.bound.snapshot_problem import (
    UNPLACED_SECONDS,
    SnapshotProblem,
    snapshot_problem,
)
from pilotlight.store_node.protocol import Tier

if TYPE_CHECKING:
    from ortools.sat.python import cp_model

EFFORT = 60.0
"""CP-SAT's deterministic seconds: equal inputs give equal plans, however fast the machine."""
_MICROSECONDS = 1e6


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotOptimum:
    """The best plan that was found for a snapshot."""

    plan: Plan
    total_seconds: float
    """Of first tokens from now, summed over the requests, as the evaluator says."""
    proven_seconds: float
    """That no plan is below, as the solver says."""

    @property
    def is_proven(self) -> bool:
        """Return whether both agree, to what rounding to microseconds explains."""
        return self.total_seconds - self.proven_seconds <= 1e-4 + 1e-5 * self.total_seconds


def snapshot_optimum(
    snapshot: Snapshot,
    estimator: Estimator,
    *,
    unplaced_seconds: float = UNPLACED_SECONDS,
    may_preempt: bool = False,
    effort: float = EFFORT,
) -> SnapshotOptimum:
    """Return the best plan for a snapshot of a few models and nodes.

    The plans that compete start models, fetch them and stop what is idle (with
    `may_preempt`, whatever runs); see `plan_cost`.

    Raises:
        BoundInputError: `effort` was too small to find any plan at all.
    """
    problem = snapshot_problem(
        snapshot, estimator, unplaced_seconds=unplaced_seconds, may_preempt=may_preempt
    )
    found, proven_seconds = _Search(problem).run(effort)
    plan = _plan_of(snapshot, problem, found)
    cost = plan_cost(snapshot, estimator, plan, unplaced_seconds=unplaced_seconds)
    return SnapshotOptimum(
        plan=plan, total_seconds=cost.total_seconds, proven_seconds=proven_seconds
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Choice:
    """One start that the solver chose."""

    model: int
    node: int
    devices_at: float
    load_begins: int | None
    """Microseconds after the disk is free; None where no disk is read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Option:
    """One way to make one of a model's starts."""

    model: int
    node: int
    devices_at: float
    is_taken: cp_model.IntVar


class _Search:
    """One model of CP-SAT."""

    def __init__(self, problem: SnapshotProblem) -> None:
        # Half a second to import, which nobody else should wait for.
        from ortools.sat.python import cp_model

        self._problem = problem
        self._kit = cp_model
        self._model = cp_model.CpModel()
        self._horizon = _ticks(problem.unplaced_seconds) + int(
            sum(map(_ticks, problem.disk_seconds[np.isfinite(problem.disk_seconds)].tolist()))
        )
        self._options: list[_Option] = []
        self._load_begins: dict[tuple[int, int], cp_model.IntVar] = {}
        self._loads_on: dict[int, list[cp_model.IntervalVar]] = {}
        self._presence: dict[tuple[int, int], cp_model.IntVar] = {}
        self._costs: list[cp_model.IntVar] = []
        self._weights: list[int] = []
        self._unplaceable = 0
        for model in range(len(problem.devices)):
            self._add_starts(model)
        for loads in self._loads_on.values():
            self._model.add_no_overlap(loads)
        for node in range(len(problem.devices_free)):
            self._limit_devices(node)

    def run(self, effort: float) -> tuple[list[_Choice], float]:
        """Return the best starts and what is proven of all, in seconds."""
        total = self._sum(self._costs, self._weights)
        self._model.minimize(total)
        solver = self._kit.CpSolver()
        solver.parameters.num_workers = 1
        solver.parameters.random_seed = 1
        solver.parameters.max_deterministic_time = effort
        status = solver.solve(self._model)
        if status not in (self._kit.OPTIMAL, self._kit.FEASIBLE):
            raise BoundInputError(f"no plan was found with an effort of {effort:g}")
        chosen = [
            _Choice(
                model=option.model,
                node=option.node,
                devices_at=option.devices_at,
                load_begins=self._begin_of(solver, option),
            )
            for option in self._options
            if solver.boolean_value(option.is_taken)
        ]
        unplaceable = self._unplaceable * self._problem.unplaced_seconds
        return chosen, solver.best_objective_bound / _MICROSECONDS + unplaceable

    def _begin_of(self, solver: cp_model.CpSolver, option: _Option) -> int | None:
        begin = self._load_begins.get((option.model, option.node))
        return None if begin is None else solver.value(begin)

    def _add_starts(self, model: int) -> None:
        """Add what starts a model may have, the first of which take as many as they can."""
        problem = self._problem
        left, takes = int(problem.n_waiting[model]), int(problem.concurrency[model])
        previous: tuple[int, cp_model.IntVar] | None = None
        for _ in range(min(-(-left // takes), int(problem.n_starts[model]))):
            weight = min(left, takes)
            seconds = self._add_start(model)
            self._weights.append(weight)
            if previous is not None and previous[0] == weight:
                # Equal starts are interchangeable.
                self._model.add(previous[1] <= seconds)
            previous = (weight, seconds)
            left -= weight
        self._unplaceable += left

    def _add_start(self, model: int) -> cp_model.IntVar:
        problem = self._problem
        seconds = self._model.new_int_var(0, self._horizon, "")
        self._costs.append(seconds)
        taken: list[cp_model.IntVar] = []
        for node in np.flatnonzero(problem.can_start[model]).tolist():
            for devices_at in self._moments(node):
                is_taken = self._model.new_bool_var("")
                taken.append(is_taken)
                option = _Option(model=model, node=node, devices_at=devices_at, is_taken=is_taken)
                self._options.append(option)
                self._time(option, seconds)
        is_unplaced = self._model.new_bool_var("")
        self._model.add_exactly_one([*taken, is_unplaced])
        self._add_if(is_unplaced, seconds >= _ticks(problem.unplaced_seconds))
        return seconds

    def _time(self, option: _Option, seconds: cp_model.IntVar) -> None:
        """Say when a start has its first token if this option is taken."""
        problem, at = self._problem, option.devices_at
        cell = (option.model, option.node)
        transfer, worker = problem.transfer_seconds[cell], problem.worker_seconds[cell]
        tail = problem.tail_seconds[cell]
        in_memory = at + max(transfer, worker)
        from_disk = max(transfer, at + worker)
        alone = (in_memory if problem.is_in_memory[cell] else from_disk) + tail
        self._add_if(option.is_taken, seconds >= _ticks(alone))
        if problem.disk_seconds[cell] > 0.0:
            behind = self._load(option) + _ticks(transfer + tail)
            self._add_if(option.is_taken, seconds >= behind)

    def _load(self, option: _Option) -> cp_model.IntVar:
        """Return when the load of an option begins, which it shares with others of its node."""
        cell = (option.model, option.node)
        if cell not in self._load_begins:
            begin = self._model.new_int_var(0, self._horizon, "")
            self._load_begins[cell] = begin
            is_there = self._model.new_bool_var("")
            self._presence[cell] = is_there
            channel = int(self._problem.channel[cell])
            size = _ticks(self._problem.disk_seconds[cell])
            self._loads_on.setdefault(channel, []).append(
                self._model.new_optional_fixed_size_interval_var(begin, size, is_there, "")
            )
        self._model.add_implication(option.is_taken, self._presence[cell])
        return self._load_begins[cell]

    def _moments(self, node: int) -> list[float]:
        """Return when more devices of a node are free."""
        at = self._problem.victim_seconds[self._problem.victim_node == node]
        return [0.0, *np.unique(at).tolist()]

    def _limit_devices(self, node: int) -> None:
        problem = self._problem
        here = problem.victim_node == node
        starts = [option for option in self._options if option.node == node]
        for moment in self._moments(node):
            freed = here & (problem.victim_seconds <= moment) & (moment > 0.0)
            free = int(max(problem.devices_free[node], 0) + problem.victim_devices[freed].sum())
            by_then = [option for option in starts if option.devices_at <= moment]
            used = self._sum(
                [option.is_taken for option in by_then],
                [int(problem.devices[option.model]) for option in by_then],
            )
            self._model.add(used <= free)

    def _add_if(
        self, is_so: cp_model.IntVar, rule: cp_model.BoundedLinearExpression | bool
    ) -> None:
        constraint = self._model.add(rule)
        # One of its overloads is not typed, hence unknown to pyright.
        constraint.only_enforce_if(is_so)  # pyright: ignore[reportUnknownMemberType]

    def _sum(self, values: list[cp_model.IntVar], weights: list[int]) -> cp_model.LinearExpr:
        kind = self._kit.LinearExpr
        # Its stub says Sequence without saying of what.
        return kind.weighted_sum(values, weights)  # pyright: ignore[reportUnknownMemberType]


def _plan_of(snapshot: Snapshot, problem: SnapshotProblem, chosen: list[_Choice]) -> Plan:
    """Return a plan that the evaluator takes as the solver meant it."""
    steps: list[AnyStep] = []
    for row, node, at in zip(
        problem.victim_rows.tolist(),
        problem.victim_node.tolist(),
        problem.victim_seconds.tolist(),
        strict=True,
    ):
        if any(each.node == node and each.devices_at >= at for each in chosen):
            replica = snapshot.replica_ids[int(row)]
            steps.append(Stop(id=StepId(f"stop-{replica}"), replica=replica))
    reads = {(c.model, c.node): c.load_begins for c in chosen if c.load_begins is not None}
    for (model, node), _ in sorted(reads.items(), key=lambda read: read[1]):
        name, where = snapshot.model_ids[int(problem.model_rows[model])], snapshot.node_ids[node]
        steps.append(Fetch(id=StepId(f"fetch-{name}-{where}"), model=name, node=where))
    # Who takes devices first gets those that are free first.
    for number, choice in enumerate(sorted(chosen, key=lambda each: each.devices_at)):
        row = int(problem.model_rows[choice.model])
        steps.append(
            Start(
                id=StepId(f"start-{number + 1}"),
                model=snapshot.model_ids[row],
                node=snapshot.node_ids[choice.node],
                tier=snapshot.tier(row, choice.node) or Tier.SSD,
            )
        )
    return Plan(steps=tuple(steps))


def _ticks(seconds: float) -> int:
    return int(seconds * _MICROSECONDS)
