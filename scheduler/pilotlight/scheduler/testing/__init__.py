"""What policies and the core are tested by, ours and others'."""

from __future__ import annotations

from pilotlight.scheduler.testing.case import Case, CaseNode
from pilotlight.scheduler.testing.policy_contract import PolicyContract
from pilotlight.scheduler.testing.stage import Stage

__all__ = ["Case", "CaseNode", "PolicyContract", "Stage"]
