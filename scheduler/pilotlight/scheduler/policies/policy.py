"""What a policy is."""

from __future__ import annotations

from typing import Protocol

from pilotlight.estimators import Estimator
from pilotlight.scheduler.core.plan import Plan
from pilotlight.scheduler.core.snapshot import Snapshot


class Policy(Protocol):
    """Chooses what to start and stop; the `pilotlight.policies` entry points make one.

    `plan` is called whenever something has changed that a plan might answer, never
    twice at once. It is a function of its arguments: no clock (the snapshot has
    `now`), no randomness but from `snapshot.seed`, no I/O, no memory of its own.
    What it returns is checked step by step against the state of that moment;
    steps that no longer fit are left out with those after them, and where that is
    because the state has changed meanwhile, the policy is asked again.
    """

    @property
    def name(self) -> str:
        """Return the name of its entry point."""
        ...

    def plan(self, snapshot: Snapshot, estimator: Estimator) -> Plan:
        """Return steps for all demand on one snapshot."""
        ...
