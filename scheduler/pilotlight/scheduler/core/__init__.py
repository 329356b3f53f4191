"""The pure core: events in, actions out."""

from __future__ import annotations

from pilotlight.scheduler.core.core import Core
from pilotlight.scheduler.core.model import Model
from pilotlight.scheduler.core.plan import Plan, StepId
from pilotlight.scheduler.core.snapshot import ReplicaCode, Snapshot
from pilotlight.scheduler.core.turn import CoreSettings

__all__ = ["Core", "CoreSettings", "Model", "Plan", "ReplicaCode", "Snapshot", "StepId"]
