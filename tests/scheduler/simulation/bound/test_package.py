from __future__ import annotations

from pilotlight.scheduler.simulation import bound


def test_offers_what_it_says() -> None:
    assert set(bound.__all__) == {
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
    }
    assert all(hasattr(bound, name) for name in bound.__all__)
