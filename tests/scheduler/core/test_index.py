from __future__ import annotations

from pilotlight.scheduler.core.index import StateIndex
from pilotlight.scheduler.core.plan import Plan
from pilotlight.scheduler.core.state import ClusterState
from pilotlight.scheduler.testing import Case
from pilotlight.scheduler.testing.reports import copy_of, model_of
from pilotlight.scheduler.testing.stage import Stage, start_step, stop_step
from pilotlight.store_node.protocol import ModelId, NodeId, Reference


def test_replicas_are_found_by_node_and_model_in_the_order_of_their_coming() -> None:
    case = Case()
    here, there = case.node("here", devices=4), case.node("there", devices=4)
    first = case.replica("m", here)
    second = case.replica("n", here)
    third = case.replica("m", there)
    index = StateIndex(case.state)

    assert [each.id for each in index.replicas_on(NodeId("here"))] == [first, second]
    assert [each.id for each in index.replicas_of(ModelId("m"))] == [first, third]
    assert index.replicas_on(NodeId("elsewhere")) == []
    assert index.place_of(first) < index.place_of(second) < index.place_of(third)


def test_a_replica_that_comes_again_comes_last() -> None:
    case = Case()
    node = case.node("a", devices=4)
    first, second = case.replica("m", node), case.replica("m", node)
    index = StateIndex(case.state)
    replica = case.state.replicas[first]

    index.forget_replica(replica)
    index.forget_replica(replica)
    index.add_replica(replica)

    assert [each.id for each in index.replicas_of(ModelId("m"))] == [second, first]


def test_the_steps_that_name_a_replica_are_found_until_their_decision_ends() -> None:
    stage = Stage()
    stage.deploy("m")
    stage.deploy("n")
    stage.join("a", holds=["m", "n"])
    victim = stage.bring_up("m")
    stage.demand("n", 1)
    start = start_step("n", "a", after=["stop"])
    stage.plan(Plan(steps=(stop_step(victim), start)))
    (decision,) = stage.core.state.decisions.values()
    index = StateIndex(stage.core.state)
    (beneficiary,) = stage.replicas("n")

    assert [step.step.id for _, step in index.steps_of(victim.id)] == ["stop"]
    assert index.steps_of(beneficiary.id) == [(decision, decision.steps[start.id])]

    index.forget_decision(decision)

    assert index.steps_of(victim.id) == []


def test_models_are_found_by_path_and_by_content() -> None:
    index = StateIndex(ClusterState())
    for name, content in (("m", "c"), ("alias", "c"), ("other", "")):
        index.add_model(model_of(name, content_id=content))

    assert index.models_of(copy_of("m", content_id="c")) == ["m", "alias"]
    assert index.models_of(copy_of("moved", content_id="c")) == ["m", "alias"]
    assert index.models_of(copy_of("other")) == ["other"]
    assert index.models_at(Reference("moved")) == []


def test_a_model_deployed_otherwise_is_found_where_it_is_now() -> None:
    index = StateIndex(ClusterState())
    index.add_model(model_of("m", reference=Reference("old"), content_id="one"))
    before = index.deployment_of(ModelId("m"))

    index.add_model(model_of("m", reference=Reference("new"), content_id="two"))

    assert index.models_at(Reference("old")) == []
    assert index.models_at(Reference("new")) == ["m"]
    assert index.models_of(copy_of("x", content_id="one")) == []
    assert index.deployment_of(ModelId("m")) != before


def test_a_model_that_is_gone_is_not_found() -> None:
    index = StateIndex(ClusterState())
    index.add_model(model_of("m", content_id="c"))

    index.forget_model(ModelId("m"))
    index.forget_model(ModelId("m"))

    assert index.models_of(copy_of("m", content_id="c")) == []
    assert index.contents() == StateIndex(ClusterState()).contents()
