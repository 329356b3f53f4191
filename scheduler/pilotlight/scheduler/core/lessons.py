"""What a replica's start teaches the estimator."""

from __future__ import annotations

from pilotlight.estimators import Measurement
from pilotlight.scheduler.core.copies import copy_on
from pilotlight.scheduler.core.state import Replica
from pilotlight.scheduler.core.turn import Turn
from pilotlight.store_node.protocol import ChannelId, StartOutcome


def of_start(turn: Turn, replica: Replica) -> None:
    """A replica has become READY."""
    outcome = replica.outcome
    model, node = turn.state.models.get(replica.model), turn.state.nodes[replica.node]
    if outcome is None or model is None:
        return
    copy = copy_on(turn.state, model, node)
    turn.estimator.observe(
        Measurement(
            model=replica.model,
            node=replica.node,
            engine=model.engine,
            channel=(node.disk_of(copy) if copy else None) or ChannelId(""),
            size_bytes=model.size_bytes,
            bytes_read=outcome.bytes_read,
            transfer_seconds=_transfer_busy(outcome),
            worker_seconds=outcome.worker_busy_seconds or None,
            bind_seconds=outcome.bind_seconds or None,
            prefill_seconds=outcome.prefill_seconds,
            link=node.channel_of("host_link") or "",
        )
    )


def of_prefill(turn: Turn, replica: Replica, seconds: float) -> None:
    """A READY replica's first request has its first token."""
    model = turn.state.models.get(replica.model)
    turn.estimator.observe(
        Measurement(
            model=replica.model,
            node=replica.node,
            engine=model.engine if model else "",
            channel="",
            size_bytes=model.size_bytes if model else 0,
            bytes_read=0,
            transfer_seconds=None,
            worker_seconds=None,
            bind_seconds=None,
            prefill_seconds=seconds,
        )
    )


def _transfer_busy(outcome: StartOutcome) -> float | None:
    if outcome.bytes_read:
        return outcome.disk_busy_seconds or None
    return outcome.transfer_seconds or None
