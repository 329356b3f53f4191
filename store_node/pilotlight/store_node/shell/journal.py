"""What operators are told of replicas: a line when one is ready, and one when it has ended."""

from __future__ import annotations

from collections import OrderedDict

import structlog

from pilotlight.store_node.protocol import (
    CommandHeader,
    ReplicaId,
    ReplicaState,
    ReplicaStatus,
    StartOutcome,
)
from pilotlight.store_node.shell.metrics import Metrics

_MOST_HEADERS = 1024

log = structlog.get_logger(__name__)


class Journal:
    """Logs and counts what becomes of replicas, under the decision that began them."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._headers: OrderedDict[ReplicaId, CommandHeader] = OrderedDict()
        self._states: OrderedDict[ReplicaId, ReplicaState] = OrderedDict()

    def note_start(self, replica_id: ReplicaId, header: CommandHeader) -> None:
        """Remember which decision a replica is of."""
        self._headers[replica_id] = header
        while len(self._headers) > _MOST_HEADERS:
            self._headers.popitem(last=False)

    def note(self, status: ReplicaStatus | None) -> None:
        """Tell of a replica that has entered another state."""
        if status is None or self._states.get(status.replica_id) is status.state:
            return
        self._states[status.replica_id] = status.state
        while len(self._states) > _MOST_HEADERS:
            self._states.popitem(last=False)
        self._tell(status)

    def _tell(self, status: ReplicaStatus) -> None:
        header = self._headers.get(status.replica_id)
        bound = log.bind(replica=status.replica_id, model=status.model, checkpoint=status.reference)
        if header is not None and header.decision_id:
            bound = bound.bind(decision_id=header.decision_id, step_id=header.step_id)
        if status.state is ReplicaState.READY and status.outcome is not None:
            self._metrics.count_start(status.outcome)
            bound.info("replica ready", tier=status.outcome.tier, **_phases(status.outcome))
        elif status.state is ReplicaState.FAILED:
            self._metrics.count_failure(status.error_code)
            told = {"log_tail": status.log_tail} if status.log_tail else {}
            bound.warning("replica failed", code=status.error_code, reason=status.error, **told)
        elif status.state is ReplicaState.STOPPED:
            bound.info("replica stopped", teardown_seconds=round(status.teardown_seconds, 4))


def _phases(outcome: StartOutcome) -> dict[str, float]:
    return {
        name: round(getattr(outcome, name), 4)
        for name in ("queue_seconds", "transfer_seconds", "worker_seconds", "bind_seconds")
    }
