"""Scenarios: what is simulated, as YAML files that are checked before anything runs."""

from __future__ import annotations

from pilotlight.scheduler.simulation.scenarios.built import Built
from pilotlight.scheduler.simulation.scenarios.errors import InvalidScenario
from pilotlight.scheduler.simulation.scenarios.library import load_scenario, shipped_names
from pilotlight.scheduler.simulation.scenarios.scenario import Scenario

__all__ = ["Built", "InvalidScenario", "Scenario", "load_scenario", "shipped_names"]
