"""The node core without I/O: `NodeCore.handle(event, now)` returns actions."""

from __future__ import annotations

from pilotlight.store_node.core.copies import CheckpointCopy
from pilotlight.store_node.core.eviction import Evictable, Evictor, LruEvictor, ValueEvictor
from pilotlight.store_node.core.node import NodeCore
from pilotlight.store_node.core.residency import Capacity

__all__ = [
    "Capacity",
    "CheckpointCopy",
    "Evictable",
    "Evictor",
    "LruEvictor",
    "NodeCore",
    "ValueEvictor",
]
