"""Fits a scenario to what a controller recorded of a cluster."""

from __future__ import annotations

from pilotlight.scheduler.simulation.calibration.fit import Fitted, fit
from pilotlight.scheduler.simulation.calibration.observations import (
    Observations,
    UnusableRecording,
    observe,
)

__all__ = ["Fitted", "Observations", "UnusableRecording", "fit", "observe"]
