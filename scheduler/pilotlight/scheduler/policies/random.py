"""The paper's baseline "serverless": any node that has the devices, at random."""

from __future__ import annotations

from random import Random

import numpy as np

from pilotlight.estimators import Estimator
from pilotlight.scheduler.core.plan import Plan
from pilotlight.scheduler.core.snapshot import Snapshot
from pilotlight.scheduler.policies.draft import Draft


class RandomNode:
    """A random node among those that hold the checkpoint and have, or can free, the devices."""

    name = "random"

    def plan(self, snapshot: Snapshot, estimator: Estimator) -> Plan:
        """Return steps for all demand on one snapshot."""
        draw = Random(snapshot.seed)
        draft = Draft(snapshot, estimator.timeline(snapshot))
        for model in draft.wanted_starts():
            nodes = np.flatnonzero(np.isfinite(draft.first_token_seconds(model))).tolist()
            if nodes:
                draft.start(model, draw.choice(nodes))
        return draft.finish()
