"""What every policy must do; subclass it in a test module and say how to make yours.

class TestMyPolicy(PolicyContract):
    def make_policy(self) -> Policy:
        return MyPolicy()
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

import msgspec

from pilotlight.scheduler.core.actions import Publish
from pilotlight.scheduler.core.events import PlanProposed, TimerFired
from pilotlight.scheduler.core.plan import Plan, Refuse, Start, Stop, Subject
from pilotlight.scheduler.policies import Policy
from pilotlight.scheduler.testing.case import NOW, Case
from pilotlight.scheduler.testing.clusters import random_case
from pilotlight.scheduler.testing.snapshots import differing_columns


class PolicyContract:
    """Shows a policy many small clusters; the seeds of those are a subclass's to change."""

    seeds: Sequence[int] = range(40)

    def make_policy(self) -> Policy:
        """Return a new instance of the policy under test."""
        raise NotImplementedError

    def test_gives_equal_plans_for_equal_snapshots(self) -> None:
        """Nothing but its arguments may count: no clock, no memory, no other randomness."""
        policy = self.make_policy()
        for seed, case in self._cases():
            first = policy.plan(case.snapshot(), case.estimator)
            again = policy.plan(case.snapshot(), case.estimator)
            elsewhere = self.make_policy().plan(case.snapshot(), random_case(seed).estimator)

            assert _written(first) == _written(again), f"cluster {seed}, the second time"
            assert _written(first) == _written(elsewhere), f"cluster {seed}, a new instance"

    def test_leaves_the_snapshot_as_it_is(self) -> None:
        """A snapshot is shared with whoever looks at the same moment."""
        for seed, case in self._cases():
            snapshot, untouched = case.snapshot(), case.snapshot()

            self.make_policy().plan(snapshot, case.estimator)

            assert differing_columns(snapshot, untouched) == [], f"cluster {seed}"

    def test_plans_what_the_core_accepts_whole(self) -> None:
        """Only what exists is named, no device is booked twice, and no read is stale."""
        for seed, case in self._cases():
            core = case.core()
            core.handle(TimerFired(timer="replan"), NOW)
            plan = self.make_policy().plan(core.snapshot(NOW), case.estimator)

            plan_id = core.state.plan_in_flight
            assert plan_id is not None
            actions = core.handle(PlanProposed(plan_id=plan_id, policy="test", plan=plan), NOW)

            published = [action for action in actions if isinstance(action, Publish)]
            rejected = [each.text for each in published if each.kind == "plan_rejected"]
            assert not rejected, f"cluster {seed}: {rejected}"
            core.check_integrity()

    def test_says_what_each_step_was_decided_on(self) -> None:
        """A start without reads would be carried out on a cluster that is no longer so."""
        for seed, case in self._cases():
            for step in self._plan(case).steps:
                subjects = Counter(read.subject for read in step.reads)
                if isinstance(step, Start):
                    assert subjects[Subject.NODE], f"cluster {seed}: {step.id} reads no node"
                    assert subjects[Subject.MODEL], f"cluster {seed}: {step.id} reads no model"
                if isinstance(step, Stop):
                    assert subjects[Subject.REPLICA], f"cluster {seed}: {step.id} reads no replica"

    def test_names_each_step_once(self) -> None:
        """Steps refer to each other by id."""
        for seed, case in self._cases():
            ids = Counter(step.id for step in self._plan(case).steps)

            assert not [id_ for id_, n in ids.items() if n > 1], f"cluster {seed}"

    def test_refuses_only_who_waits_and_says_why(self) -> None:
        """The reason is what the client reads."""
        for seed, case in self._cases():
            for step in self._plan(case).steps:
                if isinstance(step, Refuse):
                    assert step.reason, f"cluster {seed}: {step.id}"
                    assert step.model in case.state.demand, f"cluster {seed}: {step.id}"

    def test_does_nothing_where_nothing_is(self) -> None:
        """A controller begins with an empty cluster."""
        assert self._plan(Case()) == Plan()

    def test_starts_what_waits_where_it_can(self) -> None:
        """The one node that holds the model has a free device."""
        case = Case()
        case.node(devices=1)
        case.node(devices=1, holds=["wanted"]).expect("wanted")
        case.requests("wanted")

        case.check(self.make_policy())

    def _plan(self, case: Case) -> Plan:
        return case.plan(self.make_policy())

    def _cases(self) -> Iterator[tuple[int, Case]]:
        for seed in self.seeds:
            yield seed, random_case(seed)


def _written(plan: Plan) -> bytes:
    return msgspec.json.encode(plan)
