"""What no policy can beat, for one snapshot and for a whole run, and how far there is to go.

`snapshot_bound` and `snapshot_optimum` say what a plan can reach, `plan_cost` what
one costs; `run_bound` says it of a run. The proofs are in the documentation's concepts.
"""

from __future__ import annotations

from pilotlight.scheduler.simulation.bound.errors import BoundInputError
from pilotlight.scheduler.simulation.bound.headroom import headroom_closed
from pilotlight.scheduler.simulation.bound.plan_cost import PlanCost, plan_cost
from pilotlight.scheduler.simulation.bound.run_bound import RunBound, run_bound
from pilotlight.scheduler.simulation.bound.run_inputs import run_problem
from pilotlight.scheduler.simulation.bound.run_problem import RunProblem
from pilotlight.scheduler.simulation.bound.snapshot_bound import SnapshotBound, snapshot_bound
from pilotlight.scheduler.simulation.bound.snapshot_optimum import (
    SnapshotOptimum,
    snapshot_optimum,
)

__all__ = [
    "BoundInputError",
    "PlanCost",
    "RunBound",
    "RunProblem",
    "SnapshotBound",
    "SnapshotOptimum",
    "headroom_closed",
    "plan_cost",
    "run_bound",
    "run_problem",
    "snapshot_bound",
    "snapshot_optimum",
]
