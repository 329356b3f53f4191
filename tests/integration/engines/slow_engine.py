"""An engine of somebody else: `timed`, but slow to bind, or broken."""

from __future__ import annotations

import time
from dataclasses import replace

from pilotlight.store_node.engines import EngineSetup
from pilotlight.store_node.engines.engine import Offer, Weights
from pilotlight.store_node.engines.timed import TimedEngine


class SlowEngine(TimedEngine):
    """Takes `bind_seconds` to bind, and then fails with `failure` where there is one."""

    def prepare(self, setup: EngineSetup) -> None:
        options = dict(setup.spec.engine_options)
        self._bind_seconds = float(options.pop("bind_seconds", "0"))
        self._failure = options.pop("failure", "")
        super().prepare(replace(setup, spec=replace(setup.spec, engine_options=options)))

    def bind(self, weights: Weights) -> Offer:
        time.sleep(self._bind_seconds)
        if self._failure:
            raise RuntimeError(self._failure)
        return super().bind(weights)
