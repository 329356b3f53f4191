"""The paper's policy: each start goes where its estimated first token is soonest.

Section 5.3 of the paper, without migration: every node is a candidate, the
estimate counts the queue of its disk, the tier that holds the checkpoint, and
the teardown of idle replicas whose devices it needs. Starts are planned one
after the other, the most urgent first, each on top of those before it.
"""

from __future__ import annotations

from pilotlight.estimators import Estimator
from pilotlight.scheduler.core.plan import Plan
from pilotlight.scheduler.core.snapshot import Snapshot
from pilotlight.scheduler.policies.draft import Draft


class ServerlessLLM:
    """Least estimated start over all nodes."""

    name = "serverlessllm"

    def plan(self, snapshot: Snapshot, estimator: Estimator) -> Plan:
        """Return steps for all demand on one snapshot."""
        draft = Draft(snapshot, estimator.timeline(snapshot))
        for model in draft.wanted_starts():
            node = draft.soonest(model)
            if node is not None:
                draft.start(model, node)
        return draft.finish()
