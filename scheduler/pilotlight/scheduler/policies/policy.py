"""What a policy is."""

from __future__ import annotations

from typing import Protocol

from pilotlight.estimators import Estimator
from pilotlight.scheduler.core.plan import Plan
from pilotlight.scheduler.core.snapshot import Snapshot


class Policy(Protocol):
    """Chooses what to start and stop; the `pilotlight.policies` entry points make one.

    `plan` is called, never twice at once, where a new plan may differ from the last:

    - a model lacks more replicas for its demand and its minimum than it did;
    - devices came free, or a replica that may end fell idle, on a node that holds a
      copy of a model which lacks replicas, or what it holds of one has changed;
    - a start has become superfluous, an idle replica has outlived its keep-alive;
    - a node or a model came, went or changed, a step failed, a back-off is over;
    - a time has come that the last plan asked for with `replan_at`, or, where it named
      none and a model lacks replicas, a second has passed.

    A policy that acts ahead of demand, or leaves something for later, says with
    `replan_at` when it is to be called for that.

    `plan` is a function of its arguments: no clock (the snapshot has `now`), no
    randomness but from `snapshot.seed`, no I/O, no memory of its own. What it
    returns is checked step by step against the state of that moment; steps that no
    longer fit are left out with those after them, and where that is because the
    state has changed meanwhile, the policy is asked again.
    """

    @property
    def name(self) -> str:
        """Return the name of its entry point."""
        ...

    def plan(self, snapshot: Snapshot, estimator: Estimator) -> Plan:
        """Return steps for all demand on one snapshot."""
        ...
