"""The SQL state: what is meant to run, what was decided, who leads.

SQLite or PostgreSQL by SQLAlchemy Core. Rows never leave this package; it takes
and returns the values in `records`.
"""

from __future__ import annotations

from pilotlight.scheduler.store.engine import describe_url, sqlite_url
from pilotlight.scheduler.store.leadership import HeldBy, this_process
from pilotlight.scheduler.store.migration import SchemaVersion, check, current, prepare, upgrade
from pilotlight.scheduler.store.records import (
    Change,
    DecisionRecord,
    FinishDecision,
    NodeRecord,
    Phases,
    PutDecision,
    PutModel,
    PutNode,
    PutReplica,
    PutStart,
    RemoveModel,
    RemoveReplica,
    ReplicaRecord,
    StartPosition,
    StartRecord,
    State,
)
from pilotlight.scheduler.store.state_store import StateStore

__all__ = [
    "Change",
    "DecisionRecord",
    "FinishDecision",
    "HeldBy",
    "NodeRecord",
    "Phases",
    "PutDecision",
    "PutModel",
    "PutNode",
    "PutReplica",
    "PutStart",
    "RemoveModel",
    "RemoveReplica",
    "ReplicaRecord",
    "SchemaVersion",
    "StartPosition",
    "StartRecord",
    "State",
    "StateStore",
    "check",
    "current",
    "describe_url",
    "prepare",
    "sqlite_url",
    "this_process",
    "upgrade",
]
