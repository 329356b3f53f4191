"""Workers: the processes that engines run in, kept warm and handed out."""

from __future__ import annotations

from pilotlight.store_node.workers.death import WorkerDeath
from pilotlight.store_node.workers.pool import WorkerPool
from pilotlight.store_node.workers.worker import Bound, Worker

__all__ = ["Bound", "Worker", "WorkerDeath", "WorkerPool"]
