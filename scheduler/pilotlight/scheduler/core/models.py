"""Follows what users deploy and delete, and what a new leader inherits."""

from __future__ import annotations

from pilotlight.scheduler.core.actions import ModelRefused
from pilotlight.scheduler.core.copies import copy_on, learn_digest
from pilotlight.scheduler.core.decree import stop_replica
from pilotlight.scheduler.core.events import EpochRaised, ModelDeleted, ModelDeployed, Restored
from pilotlight.scheduler.core.model import Model
from pilotlight.scheduler.core.state import Node, Replica
from pilotlight.scheduler.core.turn import Turn
from pilotlight.store_node.protocol import ModelId, ReplicaState


def restored(turn: Turn, event: Restored) -> None:
    """The controller has begun to lead with what the SQL state says."""
    state = turn.state
    state.epoch = event.epoch
    # Nodes have yet to join; with each a plan is asked for.
    turn.is_plan_put_off = True
    for model in event.models:
        turn.add_model(model)
    for node in event.nodes:
        state.nodes[node.node] = Node(
            id=node.node,
            incarnation=node.incarnation,
            address=node.address,
            is_up=False,
            resources=node.resources,
            engines=(),
            package_version=node.package_version,
            version=state.version,
            heard_at=turn.now,
        )
        turn.columns.touch_shape()
    for known in event.replicas:
        turn.add_replica(
            Replica(
                id=known.replica,
                model=known.model,
                node=known.node,
                devices=known.devices,
                state=ReplicaState.STARTING,
                decision=known.decision,
                since=turn.now,
                created_at=turn.now,
                sent_at=turn.now,
                is_confirmed=False,
            )
        )
        turn.columns.touch_replica(known.replica)
        turn.touch_demand(known.model)
    if not state.models and not state.replicas:
        return
    grace = turn.settings.restore_grace_seconds
    state.settles_at = turn.now + grace
    turn.set_timer("restored", after_seconds=grace)


def epoch_raised(turn: Turn, event: EpochRaised) -> None:
    """This leader has taken a higher epoch."""
    turn.state.epoch = max(turn.state.epoch, event.epoch)


def deployed(turn: Turn, event: ModelDeployed) -> None:
    """A model is new or changed; replicas that run it otherwise are stopped."""
    model = event.model
    before = turn.state.models.get(model.name)
    turn.add_model(model)
    turn.publish("model_deployed", f"{model.name} is deployed", model=model.name)
    # Deployed again, its files are meant as they are now.
    _forget_experience(turn, model.name)
    if before is not None and before.deployment != model.deployment:
        _stop_all(turn, model, "its model was deployed anew")
    else:
        _stop_outdated(turn, model)
    for node in turn.state.nodes.values():
        for copy in node.checkpoints.values():
            learn_digest(turn.state, model, copy)
    for replica in turn.index.replicas_of(model.name):
        # Its keep-alive may be another one now.
        turn.expiries.note(replica)
    turn.want_plan()


def deleted(turn: Turn, event: ModelDeleted) -> None:
    """A model is gone."""
    model = turn.state.models.get(event.model)
    if model is None:
        return
    _forget_experience(turn, event.model)
    turn.remove_model(event.model)
    turn.publish("model_deleted", f"{event.model} is deleted", model=event.model)
    turn.announce(ModelRefused(model=event.model, reason="it was deleted"))
    _stop_all(turn, model, "its model was deleted")


def _stop_all(turn: Turn, model: Model, reason: str) -> None:
    for replica in turn.index.replicas_of(model.name):
        stop_replica(turn, replica, reason)


def _stop_outdated(turn: Turn, model: Model) -> None:
    """Stop replicas of other bytes than now lie where they came from."""
    for replica in turn.index.replicas_of(model.name):
        node = turn.state.nodes.get(replica.node)
        copy = copy_on(turn.state, model, node) if node else None
        key = replica.compatibility
        if copy is not None and key is not None and key.content != copy.content:
            stop_replica(turn, replica, "its files have changed")


def _forget_experience(turn: Turn, model: ModelId) -> None:
    """What was learned of a model's copies and starts says nothing of what is deployed now."""
    state = turn.state
    state.digests.pop(model, None)
    state.back_offs = {key: each for key, each in state.back_offs.items() if each.model != model}
    turn.touch_back_offs()
