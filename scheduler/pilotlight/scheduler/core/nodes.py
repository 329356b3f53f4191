"""Takes over what nodes report of themselves, and settles what that means.

Theory of operation. A node's report is the truth about what runs there; the SQL
state is the truth about what should. When a node joins, each replica that it
reports is matched with what is known: known ones take over its state, unknown
ones are adopted if their model could have started them, else stopped; those
that it does not report are gone. A node whose connection breaks keeps its
replicas for a grace period, a silent one does not.
"""

from __future__ import annotations

from collections.abc import Iterable

from pilotlight.process.quantities import format_count
from pilotlight.scheduler.core import replicas, steps
from pilotlight.scheduler.core.actions import NodeChanged
from pilotlight.scheduler.core.copies import copy_on, learn_digest
from pilotlight.scheduler.core.decree import insist, stop_replica
from pilotlight.scheduler.core.events import NodeDisconnected, NodeJoined, NodeUpdated
from pilotlight.scheduler.core.state import ADOPTED, Node, Replica
from pilotlight.scheduler.core.turn import Turn
from pilotlight.store_node.protocol import (
    CheckpointStatus,
    LoadStatus,
    NodeId,
    NodeReport,
    NodeUpdate,
    ReplicaState,
    ReplicaStatus,
    ReplicaSummary,
)


def joined(turn: Turn, event: NodeJoined) -> None:
    """A node has acknowledged this leader with a full report."""
    report = event.report
    known = turn.state.nodes.get(report.node_id)
    if known is not None and known.incarnation != report.incarnation:
        known.is_up = False
        _lose_replicas(turn, report.node_id, "its node was restarted")
    node = turn.state.nodes[report.node_id] = _node_of(turn, report)
    turn.columns.touch_shape()
    turn.touch_node(node.id)
    for copy in node.checkpoints.values():
        _learn(turn, copy)
    _settle(turn, node, report)
    insist(turn)
    turn.persist(_changed(node))
    held = format_count(len(node.checkpoints), "checkpoint")
    turn.publish("node_up", f"{node.id} is up with {held}", node=node.id)
    turn.want_plan()


def updated(turn: Turn, event: NodeUpdated) -> None:
    """A node reported changes."""
    node = turn.state.nodes.get(event.node)
    if node is None or node.incarnation != event.incarnation or not node.is_up:
        return
    node.heard_at = turn.now
    _update_copies(turn, node, event)
    update = event.update
    if update.channels:
        node.channels |= {channel.channel_id: channel for channel in update.channels}
        turn.columns.touch_shape()
        turn.want_plan()
    if update.loads != node.loads:
        _update_loads(turn, node, update.loads)
    for status in update.replicas:
        _apply(turn, node, status)
    if update.has_summaries:
        _update_capacity(turn, node, update)
        _update_traffic(turn, node, update.summaries)


def disconnected(turn: Turn, event: NodeDisconnected) -> None:
    """A node's session has ended."""
    node = turn.state.nodes.get(event.node)
    if node is None or node.incarnation != event.incarnation or not node.is_up:
        return
    node.is_up = False
    turn.touch_node(node.id)
    turn.publish("node_down", f"{node.id} is down: {event.reason}", node=node.id)
    turn.persist(_changed(node))
    turn.want_plan()
    if not event.may_return:
        _lose_replicas(turn, node.id, f"{node.id} is down: {event.reason}")
        return
    grace = turn.settings.reconnect_grace_seconds
    turn.state.settles_at = max(turn.state.settles_at, turn.now + grace)
    turn.set_timer(f"node:{node.id}:{node.incarnation}", after_seconds=grace)


def grace_is_over(turn: Turn, node_id: str, incarnation: str) -> None:
    """A disconnected node has had its time to come back."""
    node = turn.state.nodes.get(NodeId(node_id))
    if node is None or node.is_up or node.incarnation != incarnation:
        return
    _lose_replicas(turn, node.id, f"{node.id} is down")
    turn.want_plan()


def unconfirmed(turn: Turn) -> None:
    """Replicas that only the SQL state knows have had their time to be reported."""
    for replica in list(turn.state.replicas.values()):
        if replica.is_live and not replica.is_confirmed:
            replicas.fail(turn, replica, f"{replica.node} did not report it after the restart")
            steps.replica_moved(turn, replica)
    turn.want_plan()


def _node_of(turn: Turn, report: NodeReport) -> Node:
    return Node(
        id=report.node_id,
        incarnation=report.incarnation,
        address=report.address,
        is_up=True,
        resources=report.resources,
        engines=report.engines,
        package_version=report.version,
        version=turn.state.version,
        heard_at=turn.now,
        checkpoints={copy.reference: copy for copy in report.checkpoints},
        channels={channel.channel_id: channel for channel in report.resources.channels},
        warm_workers=dict(report.warm_workers),
        loads=report.loads,
        accounts=report.accounts,
    )


def _settle(turn: Turn, node: Node, report: NodeReport) -> None:
    reported = {status.replica_id: status for status in report.replicas}
    here = turn.index.replicas_on(node.id)
    # A start that is not answered yet, or is sent because another ends here, the report may not
    # know of.
    was_sent = {
        r.id for r in here if r.sent_at is not None and not steps.is_start_unanswered(turn, r)
    }
    for replica in here:
        status = reported.pop(replica.id, None)
        if status is not None:
            _apply(turn, node, status)
        elif replica.is_live and replica.id in was_sent:
            replicas.fail(turn, replica, f"{node.id} does not run it any more")
            steps.replica_moved(turn, replica)
    for status in reported.values():
        _apply(turn, node, status)
    for replica in turn.index.replicas_on(node.id):
        if replica.state is ReplicaState.READY and not replica.is_leaving:
            replicas.route(turn, replica)
    _update_traffic(turn, node, report.summaries)


def _apply(turn: Turn, node: Node, status: ReplicaStatus) -> None:
    replica = turn.state.replicas.get(status.replica_id)
    if replica is None:
        _adopt_or_stop(turn, node, status)
        return
    if replica.node != node.id or replica.sent_at is None:
        # Whatever runs there, it is not the one that is known by this name.
        return
    # Whoever led when its model changed may not have come to stop it.
    reason = "" if replica.must_go else _why_not_wanted(turn, status)
    replica.must_go = replica.must_go or reason
    if replicas.apply_status(turn, replica, status):
        steps.replica_moved(turn, replica)
    if reason and replica.is_live:
        stop_replica(turn, replica, reason)


def _why_not_wanted(turn: Turn, status: ReplicaStatus) -> str:
    model = turn.state.models.get(status.model)
    if model is None:
        return "its model was deleted"
    if status.deployment and status.deployment != turn.index.deployment_of(model.name):
        return "its model was deployed anew"
    return ""


def _adopt_or_stop(turn: Turn, node: Node, status: ReplicaStatus) -> None:
    if status.state in (ReplicaState.STOPPED, ReplicaState.FAILED):
        return
    replica = Replica(
        id=status.replica_id,
        model=status.model,
        node=node.id,
        devices=len(status.devices),
        state=ReplicaState.STARTING,
        decision=ADOPTED,
        since=turn.now,
        created_at=turn.now,
        sent_at=turn.now,
        is_confirmed=False,
    )
    replica.must_go = "" if _may_adopt(turn, node, status) else "nothing known asked for it"
    turn.add_replica(replica)
    turn.touch_replica(replica)
    replicas.apply_status(turn, replica, status)
    if replica.must_go:
        stop_replica(turn, replica, replica.must_go)


def _may_adopt(turn: Turn, node: Node, status: ReplicaStatus) -> bool:
    model = turn.state.models.get(status.model)
    copy = copy_on(turn.state, model, node) if model else None
    if model is None or copy is None or status.reference != copy.reference:
        return False
    if _why_not_wanted(turn, status):
        return False
    return turn.index.count_of(model.name).live < model.max_replicas


def _update_copies(turn: Turn, node: Node, event: NodeUpdated) -> None:
    changed: list[CheckpointStatus] = []
    for copy in event.update.checkpoints:
        before = node.checkpoints.get(copy.reference)
        node.checkpoints[copy.reference] = copy
        # Only this node's copies may count otherwise now: a digest is learned from the first
        # copy that has one, so no other node's can contradict it.
        _learn(turn, copy)
        changed += [copy] if before is None else [before, copy]
        _publish_copy(turn, node, before, copy)
    for reference in event.update.removed_checkpoints:
        if gone := node.checkpoints.pop(reference, None):
            changed.append(gone)
    if event.update.checkpoints or event.update.removed_checkpoints:
        turn.touch_node(node.id)
        _touch_copies(turn, node, changed)
        if turn.needs.lacks_any(changed):
            turn.want_plan()


def _update_loads(turn: Turn, node: Node, loads: tuple[LoadStatus, ...]) -> None:
    references = {load.reference for load in node.loads} ^ {load.reference for load in loads}
    node.loads = loads
    turn.columns.touch_node(node.id)
    copies = (node.checkpoints.get(reference) for reference in references)
    _touch_copies(turn, node, [copy for copy in copies if copy is not None])


def _touch_copies(turn: Turn, node: Node, copies: Iterable[CheckpointStatus]) -> None:
    """What these copies say, or said, of the models that they may serve has changed."""
    turn.columns.touch_copies(
        node.id, [name for copy in copies for name in turn.index.models_of(copy)]
    )


def _learn(turn: Turn, copy: CheckpointStatus) -> None:
    for name in turn.index.models_of(copy):
        learn_digest(turn.state, turn.state.models[name], copy)


def _publish_copy(
    turn: Turn, node: Node, before: CheckpointStatus | None, copy: CheckpointStatus
) -> None:
    if copy.quarantine and not (before and before.quarantine):
        text = f"{copy.reference} on {node.id} is quarantined: {copy.quarantine}"
        turn.publish("quarantined", text, node=node.id)
    elif before and _resident_bytes(before) and not _resident_bytes(copy):
        turn.publish("evicted", f"{copy.reference} left the DRAM of {node.id}", node=node.id)


def _resident_bytes(copy: CheckpointStatus) -> int:
    return copy.dram_bytes + copy.bound_bytes


def _update_capacity(turn: Turn, node: Node, update: NodeUpdate) -> None:
    if dict(update.warm_workers) != node.warm_workers or update.accounts != node.accounts:
        node.warm_workers = dict(update.warm_workers)
        node.accounts = update.accounts
        turn.columns.touch_node(node.id)


def _update_traffic(turn: Turn, node: Node, summaries: Iterable[ReplicaSummary]) -> None:
    for summary in summaries:
        replica = turn.state.replicas.get(summary.replica_id)
        if replica is not None and replica.node == node.id:
            replicas.apply_summary(turn, replica, summary)


def _lose_replicas(turn: Turn, node: NodeId, reason: str) -> None:
    for replica in turn.index.replicas_on(node):
        if not replica.is_live:
            continue  # It ended with what it came after.
        if replica.sent_at is None:
            replicas.drop(turn, replica, reason)
        else:
            replicas.fail(turn, replica, reason, code="node_lost")
        steps.replica_moved(turn, replica)


def _changed(node: Node) -> NodeChanged:
    return NodeChanged(
        node=node.id, incarnation=node.incarnation, address=node.address, is_up=node.is_up
    )
