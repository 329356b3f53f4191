"""What the bound's input can be wrong about."""

from __future__ import annotations

from pilotlight.scheduler.errors import SchedulerError


class BoundInputError(SchedulerError, ValueError):
    """Columns that do not describe a run or a snapshot, or figures of runs that do not compare."""
