"""The core in a world that does whatever it likes.

Events come in any order, true or not: nodes report replicas that nobody asked
for, say things twice, refuse everything, lose commands. After each of them the
core's state must hold together, and a second core that was woken from a
checkpoint somewhere on the way must do the same. In the end the world becomes
honest, and whoever still waits must have a reason to.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from pilotlight.scheduler.core.actions import ModelRefused, Send
from pilotlight.scheduler.core.events import (
    Acked,
    AnyEvent,
    EpochRaised,
    EvictAsked,
    FetchAsked,
    KnownReplica,
    Lost,
    NodeDisconnected,
    Persisted,
    PersistFailed,
    PlanProposed,
    Refused,
    TimerFired,
)
from pilotlight.scheduler.core.leases import devices_free
from pilotlight.scheduler.core.model import Model
from pilotlight.scheduler.core.plan import (
    AnyStep,
    CancelStart,
    DecisionId,
    Evict,
    Fetch,
    Plan,
    Read,
    Refuse,
    Start,
    StepId,
    Stop,
    Subject,
    WaitFor,
)
from pilotlight.scheduler.policies import RandomNode, ServerlessLLM
from pilotlight.scheduler.testing.reports import (
    copy_of,
    disk,
    load_of,
    model_of,
    status_of,
    summary_of,
)
from pilotlight.scheduler.testing.watched_stage import WatchedStage
from pilotlight.store_node.protocol import (
    CheckpointStatus,
    Incarnation,
    ModelId,
    NodeId,
    ReplicaId,
    ReplicaState,
    ReplicaStatus,
    StartReplicaRequest,
    Tier,
)

pytestmark = pytest.mark.property

T = TypeVar("T")

MODELS = [ModelId(name) for name in ("m", "n", "wide")]
NODES = [NodeId(name) for name in ("a", "b", "c")]
DEVICES = {"a": 1, "b": 2, "c": 4}
STEPS = [StepId(f"s{n}") for n in range(4)]

models = st.sampled_from(MODELS)
nodes = st.sampled_from(NODES)
some_models = st.sets(models).map(sorted)
states = st.sampled_from(list(ReplicaState))
digests = st.sampled_from(["", "", "one", "two"])
picks = st.integers(0, 1000)
"""Which of what there is; modulo how much there is."""


@st.composite
def steps(draw: st.DrawFn, replicas: list[ReplicaId]) -> AnyStep:
    """Return a step that may make sense or not."""
    reads = st.builds(Read, st.sampled_from(list(Subject)), nodes, st.integers(0, 50))
    head: dict[str, Any] = {
        "id": draw(st.sampled_from(STEPS)),
        "after": tuple(draw(st.lists(st.sampled_from(STEPS), max_size=2))),
        "reads": draw(st.just(()) | st.tuples() | st.tuples(reads)),
    }
    model, node = draw(models), draw(nodes)
    replica = draw(st.sampled_from([ReplicaId("nobody"), *replicas]))
    kinds: list[AnyStep] = [
        Start(model=model, node=node, tier=Tier.SSD, **head),
        Stop(replica=replica, if_idle=draw(st.booleans()), **head),
        CancelStart(replica=replica, **head),
        Fetch(model=model, node=node, **head),
        Evict(model=model, node=node, **head),
        WaitFor(model=model, **head),
        Refuse(model=model, **head),
    ]
    return draw(st.sampled_from(kinds))


class CoreInAWildWorld(RuleBasedStateMachine):
    """Answers the core's actions, now and then, with whatever."""

    stage: WatchedStage

    def __init__(self) -> None:
        super().__init__()
        self.answered: list[Send] = []
        self.incarnations = dict.fromkeys(NODES, 1)

    @initialize(
        known=st.dictionaries(nodes, models, max_size=2),
        deployed=st.sampled_from([MODELS, MODELS, MODELS[:1]]),
        joined=st.sampled_from([NODES, NODES[1:], []]),
        held=st.sampled_from([MODELS, MODELS, MODELS[:2]]),
    )
    def begin(
        self,
        known: dict[NodeId, ModelId],
        deployed: list[ModelId],
        joined: list[NodeId],
        held: list[ModelId],
    ) -> None:
        replicas = [
            KnownReplica(
                replica=ReplicaId(f"r0-{node}"),
                model=model,
                node=node,
                devices=1,
                decision=DecisionId("d0-1"),
            )
            for node, model in known.items()
        ]
        self.stage = WatchedStage(
            models=[_model(name) for name in deployed], replicas=replicas, is_settled=False
        )
        for node in joined:
            self.stage.join(node, devices=DEVICES[node], holds=[_copy(name) for name in held])

    # Users.

    @rule(name=models, dtype=st.sampled_from(["auto", "auto", "float16"]), low=st.integers(0, 1))
    def deploy(self, name: ModelId, dtype: str, low: int) -> None:
        known = {"devices": 2 if name == "wide" else 1, "max_replicas": 2}
        self.stage.deploy(name, dtype=dtype, min_replicas=low, **known)

    @rule(name=models)
    def delete(self, name: ModelId) -> None:
        self.stage.delete(name)

    @rule(name=models, waiting=st.integers(0, 5))
    def demand(self, name: ModelId, waiting: int) -> None:
        self.stage.demand(name, waiting)

    @rule(name=models, where=st.sets(nodes), kind=st.sampled_from([FetchAsked, EvictAsked]))
    def ask(self, name: ModelId, where: set[NodeId], kind: type[FetchAsked | EvictAsked]) -> None:
        self.stage.handle(kind(model=name, nodes=tuple(sorted(where))))

    # Nodes.

    @rule(
        node=nodes,
        held=some_models,
        in_dram=some_models,
        reported=st.lists(st.tuples(picks, states), max_size=3),
        is_new=st.booleans(),
        digest=digests,
        shares_a_disk=st.booleans(),
    )
    def join(
        self,
        node: NodeId,
        held: list[ModelId],
        in_dram: list[ModelId],
        reported: list[tuple[int, ReplicaState]],
        is_new: bool,
        digest: str,
        shares_a_disk: bool,
    ) -> None:
        self.incarnations[node] += is_new
        self.stage.join(
            node,
            devices=DEVICES[node],
            holds=[_copy(name, in_dram=name in in_dram, digest=digest) for name in held],
            replicas={each.replica_id: each for each in self._told(node, reported)}.values(),
            channels=[disk("shared" if shares_a_disk else f"disk@{node}")],
            incarnation=Incarnation(f"{node}-{self.incarnations[node]}"),
        )

    @rule(node=nodes, may_return=st.booleans(), is_late=st.booleans())
    def disconnect(self, node: NodeId, may_return: bool, is_late: bool) -> None:
        incarnation = Incarnation("late") if is_late else self.stage.incarnation(node)
        self.stage.handle(
            NodeDisconnected(
                node=node, incarnation=incarnation, reason="gone", may_return=may_return
            )
        )

    @rule(
        node=nodes,
        reported=st.lists(st.tuples(picks, states), max_size=2),
        traffic=st.lists(st.tuples(picks, st.integers(0, 2)), max_size=3),
        held=some_models,
        lost=some_models,
        loads=some_models,
        digest=digests,
    )
    def update(
        self,
        node: NodeId,
        reported: list[tuple[int, ReplicaState]],
        traffic: list[tuple[int, int]],
        held: list[ModelId],
        lost: list[ModelId],
        loads: list[ModelId],
        digest: str,
    ) -> None:
        self.stage.update(
            node,
            replicas=tuple(self._told(node, reported)),
            checkpoints=tuple(_copy(name, digest=digest) for name in held),
            removed_checkpoints=tuple(_model(name).reference for name in lost),
            summaries=tuple(summary_of(self._heard(pick), running=n) for pick, n in traffic),
            has_summaries=bool(traffic),
            warm_workers={"timed": len(traffic)},
            loads=tuple(load_of(name, done_bytes=len(held)) for name in loads),
        )

    @precondition(lambda self: self.stage.replicas())
    @rule(pick=picks, state=states)
    def progress(self, pick: int, state: ReplicaState) -> None:
        self.stage.report(_pick(self.stage.replicas(), pick), state)

    @precondition(lambda self: self.stage.replicas())
    @rule(pick=picks, running=st.integers(0, 1))
    def serve(self, pick: int, running: int) -> None:
        self.stage.traffic(_pick(self.stage.replicas(), pick), running=running)

    @precondition(lambda self: self.stage.sends)
    @rule(pick=picks)
    def obey(self, pick: int) -> None:
        send = _pick(self.stage.sends, pick)
        self.answered.append(send)
        self.stage.obey(send)

    @precondition(lambda self: self.stage.sends)
    @rule(pick=picks, answer=st.sampled_from(["ack", "refuse", "lose"]))
    def answer(self, pick: int, answer: str) -> None:
        send = _pick(self.stage.sends, pick)
        self.answered.append(send)
        self.stage.sends.remove(send)
        self.stage.handle(_answer(send, answer))

    @precondition(lambda self: self.answered)
    @rule(pick=picks, answer=st.sampled_from(["ack", "refuse", "lose"]))
    def answer_again(self, pick: int, answer: str) -> None:
        self.stage.handle(_answer(_pick(self.answered, pick), answer))

    # The shell.

    @rule()
    def work(self) -> None:
        self.stage.settle()

    @precondition(lambda self: self.stage.plans)
    @rule(policy=st.sampled_from([ServerlessLLM(), RandomNode()]))
    def plan(self, policy: ServerlessLLM | RandomNode) -> None:
        self.stage.plan(policy)

    @precondition(lambda self: self.stage.plans)
    @rule(data=st.data(), is_asked=st.booleans())
    def plan_nonsense(self, data: st.DataObject, is_asked: bool) -> None:
        replicas = [replica.id for replica in self.stage.replicas()]
        plan = Plan(steps=tuple(data.draw(st.lists(steps(replicas), max_size=4))))
        plan_id = self.stage.plans.pop() if is_asked else 10_000
        self.stage.handle(PlanProposed(plan_id=plan_id, policy="nonsense", plan=plan))

    @rule()
    def commit(self) -> None:
        self.stage.commit()

    @precondition(lambda self: self.stage.persists)
    @rule(pick=picks, is_good=st.booleans(), is_told_twice=st.booleans())
    def answer_one_persist(self, pick: int, is_good: bool, is_told_twice: bool) -> None:
        token = self.stage.persists.pop(pick % len(self.stage.persists)).token
        event = Persisted(token=token) if is_good else PersistFailed(token=token, reason="full")
        self.stage.handle(event)
        if is_told_twice:
            self.stage.handle(event)

    @rule(seconds=st.sampled_from([0.5, 1.0, 3.0, 20.0, 1000.0]))
    def pass_time(self, seconds: float) -> None:
        self.stage.pass_time(seconds)

    @rule(pick=picks, kind=st.sampled_from(["replan", "start", "node", "insist", "restored"]))
    def fire_a_timer(self, pick: int, kind: str) -> None:
        self.stage.handle(TimerFired(timer=f"{kind}:{self._heard(pick)}"))

    @rule(epoch=st.integers(1, 9))
    def raise_epoch(self, epoch: int) -> None:
        self.stage.handle(EpochRaised(epoch=epoch))

    @rule()
    def wake_twin(self) -> None:
        self.stage.wake_twin()

    # The end.

    def teardown(self) -> None:
        if not hasattr(self, "stage"):
            return
        for _ in range(12):
            self.stage.obey_all()
            for replica in self.stage.replicas():
                if replica.state is ReplicaState.STARTING and replica.sent_at is not None:
                    self.stage.report(replica, ReplicaState.READY)
            self.stage.pass_time(7.0)
        self.stage.settle()
        for model in self.stage.core.state.demand:
            assert self._has_a_reason_to_wait(model), f"{model} waits for nothing"
        self.stage.replay()

    def _has_a_reason_to_wait(self, model: ModelId) -> bool:
        state, snapshot = self.stage.core.state, self.stage.core.snapshot(self.stage.now)
        is_refused = model in {
            update.model for update in self.stage.routes if isinstance(update, ModelRefused)
        }
        if is_refused or self.stage.replicas(model):
            return True
        able = np.flatnonzero(snapshot.can_start(snapshot.model_row(model)))
        free = [devices_free(state, snapshot.node_ids[node]) for node in able]
        return max(free, default=0) < state.models[model].devices

    def _heard(self, pick: int) -> ReplicaId:
        """Return a replica that somebody has heard of, or that nobody has."""
        sent = [
            action.command.spec.replica_id
            for action in self.stage.actions
            if isinstance(action, Send) and isinstance(action.command, StartReplicaRequest)
        ]
        strays = [ReplicaId("stray-1"), ReplicaId("stray-2"), *(f"r0-{node}" for node in NODES)]
        return ReplicaId(_pick([*strays, *sent], pick))

    def _told(
        self, node: NodeId, reported: Iterable[tuple[int, ReplicaState]]
    ) -> list[ReplicaStatus]:
        return [
            status_of(
                self._heard(pick),
                _pick(MODELS, pick),
                state,
                devices=tuple(range(1 + pick % DEVICES[node])),
            )
            for pick, state in reported
        ]


def _model(name: str) -> Model:
    return model_of(name, devices=2 if name == "wide" else 1, max_replicas=2)


def _copy(name: str, *, in_dram: bool = False, digest: str = "") -> CheckpointStatus:
    return copy_of(_model(name), in_dram=in_dram, bytes_digest=digest)


def _answer(send: Send, kind: str) -> AnyEvent:
    match kind:
        case "ack":
            return Acked(decision=send.decision, step=send.step)
        case "lose":
            return Lost(decision=send.decision, step=send.step, reason="no answer")
        case _:
            return Refused(decision=send.decision, step=send.step, code="no", reason="not now")


def _pick(items: Sequence[T], pick: int) -> T:
    return items[pick % len(items)]


TestCoreInAWildWorld = CoreInAWildWorld.TestCase
TestCoreInAWildWorld.settings = settings(stateful_step_count=40)
