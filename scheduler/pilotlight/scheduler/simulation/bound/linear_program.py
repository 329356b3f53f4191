"""Linear programs, as far as the bound needs them: minimise, with rows that must not fall below."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pilotlight.scheduler.simulation.bound.run_problem import Floats, Ints


@dataclass(frozen=True, slots=True, kw_only=True)
class LinearProgram:
    """V variables, K constraints, T terms: least `cost @ x` with `terms @ x >= floor`."""

    cost: Floats
    """[V]."""
    most: Floats
    """[V] that a variable may be; infinite where it has no limit. None is below 0."""
    floor: Floats
    """[K]."""
    row: Ints
    """[T] of the constraints."""
    column: Ints
    """[T] of the variables."""
    factor: Floats
    """[T]."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LinearSolution:
    """What the solver found; its rounding is in it."""

    cost: float
    multipliers: Floats
    """[K], none below 0: what one more of each floor costs."""


def solve(program: LinearProgram) -> LinearSolution | None:
    """Return a solution by GLOP; None where it has none, or the solver gave up."""
    # Nobody but the bound needs a solver.
    from ortools.linear_solver.python import model_builder_helper as glop

    model = glop.ModelBuilderHelper()
    for cost, most in zip(program.cost.tolist(), program.most.tolist(), strict=True):
        variable = model.add_var()
        model.set_var_lower_bound(variable, 0.0)
        model.set_var_upper_bound(variable, most)
        model.set_var_objective_coefficient(variable, cost)
    for floor in program.floor.tolist():
        constraint = model.add_linear_constraint()
        model.set_constraint_lower_bound(constraint, floor)
        model.set_constraint_upper_bound(constraint, float("inf"))
    terms = zip(program.row.tolist(), program.column.tolist(), program.factor.tolist(), strict=True)
    for row, column, factor in terms:
        model.add_term_to_constraint(row, column, factor)
    solver = glop.ModelSolverHelper("glop")
    solver.solve(model)
    if not solver.has_solution():
        return None
    multipliers = np.maximum(np.asarray(solver.dual_values(), np.float64), 0.0)
    return LinearSolution(cost=float(solver.objective_value()), multipliers=multipliers)
