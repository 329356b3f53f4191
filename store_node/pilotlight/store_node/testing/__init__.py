"""What tests of nodes, and of plugins of nodes, start from. Needs pytest.

`harness`, `controller` and `client` run a whole node and are imported by name.
"""

from __future__ import annotations

from pilotlight.store_node.testing.case import NodeCase
from pilotlight.store_node.testing.clocks import FakeClock
from pilotlight.store_node.testing.engine_contract import EngineContract
from pilotlight.store_node.testing.evictor_contract import EvictorContract
from pilotlight.store_node.testing.transcripts import EngineRun, Transcript, run_to_end

__all__ = [
    "EngineContract",
    "EngineRun",
    "EvictorContract",
    "FakeClock",
    "NodeCase",
    "Transcript",
    "run_to_end",
]
