"""What simulated runs came to: numbers, intervals, curves and timelines."""

from __future__ import annotations

from pilotlight.scheduler.simulation.report.comparison import Comparison, Interval, compare
from pilotlight.scheduler.simulation.report.run_result import RunResult, result_of

__all__ = ["Comparison", "Interval", "RunResult", "compare", "result_of"]
