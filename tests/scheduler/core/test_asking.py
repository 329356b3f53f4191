"""When the core asks for a plan: wherever one may differ, and hardly anywhere else."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

import pytest

from pilotlight.scheduler.core.actions import RequestPlan
from pilotlight.scheduler.core.events import PersistFailed
from pilotlight.scheduler.core.expiry import expires_at
from pilotlight.scheduler.core.plan import AnyStep, CancelStart, Plan, Refuse, Stop
from pilotlight.scheduler.core.state import Replica
from pilotlight.scheduler.core.turn import CoreSettings
from pilotlight.scheduler.policies import ServerlessLLM
from pilotlight.scheduler.testing.reports import copy_of, load_of
from pilotlight.scheduler.testing.stage import Stage
from pilotlight.scheduler.testing.watched_stage import WatchedStage
from pilotlight.store_node.protocol import ModelId, ReplicaState

MODELS = ("m", "n", "wide", "kept")
NODES = {"a": 1, "b": 2, "c": 4}


def _n_plans(stage: Stage) -> int:
    return len([action for action in stage.actions if isinstance(action, RequestPlan)])


def _stage(**limits: int) -> Stage:
    """Return one node of one device that holds "m" and "n"; "m" has been brought up, idle."""
    stage = Stage()
    stage.deploy("m", **limits)
    stage.deploy("n")
    stage.join("a", devices=1, holds=["m", "n"])
    stage.settle()
    stage.bring_up("m")
    return stage


# Hardly anywhere else.


def test_a_cold_start_takes_one_plan_and_its_end_another() -> None:
    stage = Stage()
    stage.deploy("m", keep_alive_seconds=60.0)
    stage.join("a", holds=["m"])
    stage.settle()
    before = _n_plans(stage)

    replica = stage.bring_up("m")
    stage.traffic(replica, running=1)
    stage.traffic(replica)
    stage.settle()
    at_work = _n_plans(stage) - before
    stage.pass_time(60.0)
    stage.obey_all()

    assert at_work == 1
    assert stage.replicas() == []
    assert _n_plans(stage) - before == 2


def test_who_waits_longer_in_a_line_that_lacks_no_more_asks_for_no_plan() -> None:
    stage = _stage()
    stage.traffic(stage.replicas("m")[0], running=1)
    stage.demand("n", 1)
    stage.settle()
    before = _n_plans(stage)

    for waiting in range(2, 20):
        stage.demand("n", waiting)

    assert _n_plans(stage) == before


def test_a_replica_that_falls_idle_where_nobody_lacks_asks_for_no_plan() -> None:
    stage = _stage()
    before = _n_plans(stage)

    for running in (1, 0, 1, 0):
        stage.traffic(stage.replicas("m")[0], running=running)

    assert _n_plans(stage) == before


def test_what_comes_free_on_a_node_without_the_lacking_model_asks_for_no_plan() -> None:
    stage = _stage()
    stage.deploy("elsewhere")
    stage.join("b", devices=0, holds=["elsewhere"])
    stage.settle()
    stage.traffic(stage.replicas("m")[0], running=1)
    # "b" holds it and has no device.
    stage.demand("elsewhere", 1)
    stage.settle()
    before = _n_plans(stage)

    stage.traffic(stage.replicas("m")[0], running=0)
    stage.update("a", checkpoints=(copy_of("n", in_dram=True),))

    assert _n_plans(stage) == before


def test_expired_minima_are_not_planned_for_again_and_again() -> None:
    stage = Stage()
    stage.deploy("m", min_replicas=1, keep_alive_seconds=1.0)
    stage.join("a", holds=["m"])
    stage.obey_all()
    before = _n_plans(stage)

    stage.pass_time(100.0)

    assert len(stage.replicas("m")) == 1
    assert _n_plans(stage) == before


def test_expiries_close_together_share_a_plan() -> None:
    stage = Stage()
    for name in ("m", "n"):
        stage.deploy(name, keep_alive_seconds=10.0)
    stage.deploy("early", keep_alive_seconds=9.0)
    stage.join("a", devices=3, holds=["m", "n", "early"])
    stage.settle()
    for name in ("early", "m"):
        stage.bring_up(name)
    stage.pass_time(0.01)
    stage.bring_up("n")
    stage.pass_time(9.5)
    stage.obey_all()
    before = _n_plans(stage)

    # "m" expires first, "n" 0.01 s later, and plans for that are 0.05 s apart.
    stage.pass_time(0.495)
    stage.obey_all()
    first = [replica.model for replica in stage.replicas()]
    stage.pass_time(0.05)
    stage.obey_all()

    assert first == ["n"]
    assert stage.replicas() == []
    assert _n_plans(stage) - before == 2


# Wherever one may differ.


def test_the_lacking_model_is_planned_for_when_a_device_comes_free() -> None:
    stage = _stage()
    busy = stage.replicas("m")[0]
    stage.traffic(busy, running=1)
    stage.demand("n", 1)
    stage.settle()
    assert stage.sends == []

    stage.traffic(busy, running=0)
    stage.obey_all()

    assert [replica.model for replica in stage.replicas()] == ["n"]


def test_the_lacking_model_is_planned_for_when_another_ones_requests_have_left() -> None:
    stage = _stage()
    stage.demand("m", 1)
    stage.demand("n", 1)
    stage.settle()
    assert stage.sends == []

    # The idle replica of "m" was kept for what waited for it.
    stage.demand("m", 0)
    stage.obey_all()

    assert [replica.model for replica in stage.replicas()] == ["n"]


def test_a_replica_that_expired_while_requests_waited_ends_once_they_have_left() -> None:
    stage = _stage(keep_alive_seconds=1)
    stage.demand("m", 1)
    stage.pass_time(2.0)
    stage.settle()
    assert stage.sends == []

    stage.demand("m", 0)
    stage.pass_time(CoreSettings().idle_replan_seconds)
    stage.obey_all()

    assert stage.replicas() == []


def test_of_two_that_may_end_the_expired_one_does_when_the_other_works_again() -> None:
    stage = Stage()
    stage.deploy("m", min_replicas=1, max_replicas=2, keep_alive_seconds=None)
    stage.join("a", devices=2, holds=["m"])
    stage.obey_all()
    stage.demand("m", 3)
    stage.obey_all()
    slow, fast = stage.replicas("m")
    stage.demand("m", 0)
    assert slow.outcome is not None
    stage.traffic(slow, running=1)
    stage.traffic(fast, running=1)
    # A load of 1.15 s; the longest idle one may stay longer, and is the one that is to go.
    stage.traffic(slow)
    stage.pass_time(1.0)
    stage.traffic(fast)
    stage.pass_time(1.0)
    stage.obey_all()

    assert [replica.id for replica in stage.replicas("m")] == [fast.id]


def test_what_comes_after_a_refusal_is_refused_by_a_plan_of_its_own() -> None:
    stage = Stage()
    stage.deploy("m")
    stage.join("a")
    stage.demand("m", 2)
    stage.settle()
    before = len(stage.routes)

    # The router failed two and got one more before it said so.
    stage.demand("m", 1)
    stage.settle()

    assert len(stage.routes) == before + 1


def test_a_model_that_a_policy_left_lacking_is_planned_for_a_second_later() -> None:
    stage = Stage()
    stage.deploy("m")
    stage.join("a", holds=["m"])
    stage.settle()
    stage.demand("m", 1)
    stage.plan(Plan())
    stage.pass_time(0.9)
    assert stage.plans == []

    stage.pass_time(0.1)

    assert len(stage.plans) == 1


# All of it, at random.


class AskedStage(WatchedStage):
    """Knows, after each event, what the policy would do, and that the core has asked it.

    Also that what is kept current equals what is built anew, see `WatchedStage`.
    """

    def check_asked(self) -> None:
        """Raise AssertionError where a plan would have steps that nobody asks for."""
        if self.plans or "replan:state" in self.timers:
            return
        plan = ServerlessLLM().plan(self.core.snapshot(self.now), self.estimator)
        unasked = [step for step in plan.steps if not self._comes_by_itself(step)]
        assert not unasked, f"nobody asks for {unasked}"

    def _comes_by_itself(self, step: AnyStep) -> bool:
        """Return whether a timer will ask for it, or it is under way."""
        state = self.core.state
        if isinstance(step, Stop):
            latest = self.now + CoreSettings().idle_replan_seconds
            is_due = expires_at(state, state.replicas[step.replica]) <= self.now
            return is_due and self.timers.get("replan:idle", latest + 1.0) <= latest
        if isinstance(step, CancelStart):
            return self.now < state.replicas[step.replica].not_cancelled_before
        if isinstance(step, Refuse):
            planned = [
                each.step
                for decision in state.decisions.values()
                for each in decision.steps.values()
            ]
            is_told = state.demand[step.model].was_refused
            is_planned = any(isinstance(s, Refuse) and s.model == step.model for s in planned)
            return is_told or is_planned or self.now < state.settles_at
        return False


class World:
    """Lets anything happen to a small cluster, drawn from a seed."""

    def __init__(self, seed: int) -> None:
        self.draw = Random(seed)
        self.stage = AskedStage()
        for name in MODELS:
            self.deploy(name)
        for node in NODES:
            self.join(node)

    def step(self) -> None:
        """Let one thing happen."""
        draw, stage = self.draw, self.stage
        node, model = draw.choice([*NODES]), draw.choice(MODELS)
        flag = draw.random() < 0.5
        happenings: list[tuple[int, Callable[[], object]]] = [
            (6, lambda: stage.demand(model, draw.choice([0, 0, 1, 2, 5]))),
            (6, self.serve),
            (8, self.answer),
            (6, stage.settle),
            (2, stage.commit),
            (6, self.progress),
            (4, lambda: stage.pass_time(draw.choice([0.01, 0.06, 1.0, 7.0, 40.0]))),
            (2, lambda: stage.update(node, checkpoints=(copy_of(model, in_dram=flag),))),
            (1, lambda: stage.update(node, removed_checkpoints=(copy_of(model).reference,))),
            (2, lambda: stage.update(node, loads=(load_of(model),) * flag)),
            (1, lambda: self.deploy(model)),
            (1, lambda: stage.delete(model)),
            (1, lambda: self.join(node)),
            (1, lambda: stage.disconnect(node, may_return=flag)),
            (1, self.fail_to_commit),
        ]
        weights = [weight for weight, _ in happenings]
        ((_, happening),) = draw.choices(happenings, weights)
        happening()

    def deploy(self, name: str) -> None:
        self.stage.deploy(
            name,
            devices=2 if name == "wide" else 1,
            min_replicas=1 if name == "kept" else 0,
            max_replicas=self.draw.choice([1, 3]),
            concurrency=self.draw.choice([0, 1, 2]),
            keep_alive_seconds=self.draw.choice([None, 0.0, 5.0]),
        )

    def join(self, node: str) -> None:
        held = [model for model in MODELS if self.draw.random() < 0.7]
        self.stage.join(node, devices=NODES[node], holds=held)

    def serve(self) -> None:
        if replica := self.any_replica(ReplicaState.READY):
            running = self.draw.choice([0, 0, 1])
            self.stage.traffic(replica, running=running, idle_seconds=self.draw.choice([0.0, 0.5]))

    def answer(self) -> None:
        if not self.stage.sends:
            return
        send = self.draw.choice(self.stage.sends)
        how = self.draw.choice([self.stage.obey] * 6 + [self.stage.refuse, self.stage.lose])
        how(send)

    def fail_to_commit(self) -> None:
        if self.stage.persists:
            token = self.stage.persists.pop(0).token
            self.stage.handle(PersistFailed(token=token, reason="the disk is full"))

    def progress(self) -> None:
        if replica := self.any_replica():
            state = self.draw.choice([ReplicaState.READY] * 4 + [*ReplicaState])
            self.stage.report(replica, state)

    def any_replica(self, state: ReplicaState | None = None) -> Replica | None:
        found = [
            replica
            for replica in self.stage.replicas()
            if replica.sent_at is not None and state in (None, replica.state)
        ]
        return self.draw.choice(found) if found else None


@pytest.mark.property
@pytest.mark.parametrize("seed", range(25))
def test_whatever_a_plan_would_do_the_core_asks_for(seed: int) -> None:
    world = World(seed)

    for _ in range(150):
        world.step()
        world.stage.check_asked()

    world.stage.replay()


@pytest.mark.property
@pytest.mark.parametrize("seed", range(8))
def test_a_core_woken_from_a_checkpoint_asks_for_the_same_plans(seed: int) -> None:
    world = World(seed)
    for _ in range(60):
        world.step()

    world.stage.wake_twin()
    for _ in range(60):
        world.step()

    # The twin is told each event too, and compared.
    assert world.stage.twin is not None
    assert world.stage.core.state.models.keys() <= {ModelId(name) for name in MODELS}
