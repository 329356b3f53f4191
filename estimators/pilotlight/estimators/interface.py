"""What an estimator is."""

from __future__ import annotations

from typing import Protocol

from pilotlight.estimators.calibration import Measurement
from pilotlight.estimators.start_times import Forecast
from pilotlight.estimators.timeline import Timeline
from pilotlight.estimators.view import ClusterView


class Estimator(Forecast, Protocol):
    """Predicts starts; the `pilotlight.estimators` entry points make one without arguments.

    Called by the core's thread only. It must be a function of its measurements
    and of the view: no clock, no randomness, no I/O.
    """

    def observe(self, measurement: Measurement) -> None:
        """Learn from one start."""
        ...

    def lessons(self) -> object:
        """Return all that was learned, as plain data that JSON can carry."""
        ...

    def take_up(self, lessons: object) -> None:
        """Know what another instance's `lessons` said, and nothing else."""
        ...

    def timeline(self, view: ClusterView) -> Timeline:
        """Return the evaluator that begins with the view's present state."""
        ...
