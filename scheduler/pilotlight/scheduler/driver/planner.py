"""Runs the configured policy, and the built-in one where that fails."""

from __future__ import annotations

import numbers
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec
import structlog

from pilotlight.estimators import Estimator
from pilotlight.scheduler.core.plan import Plan
from pilotlight.scheduler.core.snapshot import Snapshot
from pilotlight.scheduler.driver.metrics import DriverMetrics
from pilotlight.scheduler.policies import Policy

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """A plan and who made it."""

    policy: str
    plan: Plan
    failure: str = ""
    """Why it is not the configured policy's."""


class Planner:
    """Asks a policy for plans."""

    def __init__(
        self,
        policy: Policy,
        *,
        fallback: Policy,
        metrics: DriverMetrics,
        clock: Callable[[], float],
    ) -> None:
        self._policy = policy
        self._fallback = fallback
        self._metrics = metrics
        self._clock = clock

    def plan(self, snapshot: Snapshot, estimator: Estimator) -> Proposal:
        """Return the policy's plan for one snapshot; an empty one where the built-in fails too."""
        began = self._clock()
        failures: list[str] = []
        plan = Plan()
        for policy in (self._policy, self._fallback):
            try:
                plan = _ask(policy, snapshot, estimator)
                break
            # A policy may be anybody's: whatever it raises must not stop the cluster.
            except Exception as exc:
                log.exception("policy failed", policy=policy.name)
                failures.append(f"policy {policy.name} failed: {exc!r}")
        self._metrics.decision_seconds.observe(self._clock() - began)
        return Proposal(policy=policy.name, plan=plan, failure="; ".join(failures))


def _ask(policy: Policy, snapshot: Snapshot, estimator: Estimator) -> Plan:
    answer: Any = policy.plan(snapshot, estimator)
    if not isinstance(answer, Plan):
        raise TypeError(f"expected a Plan, got {answer!r}")
    # As the recording will have it: what can't be written down can't be carried out either.
    return _DECODER.decode(_ENCODER.encode(answer))


def _as_number(value: Any) -> float:
    """Take the numbers of other libraries for what they are."""
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, numbers.Real):
        return float(value)
    raise TypeError(f"a plan can't hold {value!r}")


_ENCODER = msgspec.json.Encoder(enc_hook=_as_number)
_DECODER = msgspec.json.Decoder(Plan)
