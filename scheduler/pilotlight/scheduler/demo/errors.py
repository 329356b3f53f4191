"""The demo's error."""

from __future__ import annotations

from pilotlight.scheduler.errors import SchedulerError


class DemoFailed(SchedulerError, RuntimeError):
    """The demo can't go on, with the reason and where to look."""
