"""How each change is written; all within the caller's transaction."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import cache
from typing import Any

from sqlalchemy import Connection, Dialect, Executable, Table, bindparam, delete, select, update
from sqlalchemy.dialects import postgresql, sqlite

from pilotlight.scheduler.store import rows, tables
from pilotlight.scheduler.store.records import (
    Change,
    FinishDecision,
    PutDecision,
    PutModel,
    PutNode,
    PutReplica,
    PutStart,
    RemoveModel,
    RemoveReplica,
)

PRUNE_BATCH_ROWS = 1000
"""Rows that one transaction deletes at most, so that no other waits for long."""

_REMOVE_MODEL = delete(tables.models).where(tables.models.c.name == bindparam("key"))
_REMOVE_REPLICA = delete(tables.replicas).where(tables.replicas.c.replica_id == bindparam("key"))
_FINISH_DECISION = (
    update(tables.decisions)
    .where(tables.decisions.c.decision_id == bindparam("key"))
    .values(outcome=bindparam("new_outcome"), finished_at=bindparam("new_finished_at"))
)


def write_changes(connection: Connection, changes: Iterable[Change], *, epoch: int) -> None:
    """Write changes in their order, as the leader of that epoch."""
    for change in changes:
        statement, values = _WRITERS[type(change)](connection.dialect, change, epoch)
        connection.execute(statement, values)


def prune(connection: Connection, *, keep_rows: int) -> int:
    """Delete the oldest decisions and starts beyond `keep_rows` of each; return how many."""
    deleted = 0
    for table, order, key in (
        (tables.decisions, tables.decisions.c.made_at, tables.decisions.c.decision_id),
        (tables.starts, tables.starts.c.started_at, tables.starts.c.replica_id),
    ):
        oldest = (
            select(key).order_by(order.desc(), key.desc()).offset(keep_rows).limit(PRUNE_BATCH_ROWS)
        )
        deleted += connection.execute(delete(table).where(key.in_(oldest))).rowcount
    return deleted


_Statement = tuple[Executable, dict[str, Any]]


def _put_model(dialect: Dialect, change: PutModel, _epoch: int) -> _Statement:
    return _upsert(dialect.name, tables.models), rows.model_values(change.model)


def _put_node(dialect: Dialect, change: PutNode, _epoch: int) -> _Statement:
    return _upsert(dialect.name, tables.nodes), rows.node_values(change.node)


def _put_replica(dialect: Dialect, change: PutReplica, _epoch: int) -> _Statement:
    return _upsert(dialect.name, tables.replicas), rows.replica_values(change.replica)


def _put_decision(dialect: Dialect, change: PutDecision, epoch: int) -> _Statement:
    values = rows.decision_values(change.decision, epoch=epoch)
    return _upsert(dialect.name, tables.decisions), values


def _put_start(dialect: Dialect, change: PutStart, _epoch: int) -> _Statement:
    return _upsert(dialect.name, tables.starts), rows.start_values(change.start)


def _remove_model(_dialect: Dialect, change: RemoveModel, _epoch: int) -> _Statement:
    return _REMOVE_MODEL, {"key": change.name}


def _remove_replica(_dialect: Dialect, change: RemoveReplica, _epoch: int) -> _Statement:
    return _REMOVE_REPLICA, {"key": change.replica_id}


def _finish_decision(_dialect: Dialect, change: FinishDecision, _epoch: int) -> _Statement:
    values = {"new_outcome": change.outcome, "new_finished_at": change.finished_at}
    return _FINISH_DECISION, {"key": change.decision_id, **values}


_WRITERS: dict[type[Change], Callable[[Dialect, Any, int], _Statement]] = {
    PutModel: _put_model,
    RemoveModel: _remove_model,
    PutNode: _put_node,
    PutReplica: _put_replica,
    RemoveReplica: _remove_replica,
    PutDecision: _put_decision,
    FinishDecision: _finish_decision,
    PutStart: _put_start,
}


@cache
def _upsert(dialect_name: str, table: Table) -> Executable:
    """Return the statement that inserts a row or replaces it; built once, it costs 0.1 ms."""
    if dialect_name == "sqlite":
        insert_sqlite = sqlite.insert(table)
        excluded = insert_sqlite.excluded
        return insert_sqlite.on_conflict_do_update(
            index_elements=_key(table), set_={name: excluded[name] for name in _rest(table)}
        )
    insert = postgresql.insert(table)
    return insert.on_conflict_do_update(
        index_elements=_key(table), set_={name: insert.excluded[name] for name in _rest(table)}
    )


def _key(table: Table) -> Sequence[str]:
    return [column.name for column in table.primary_key]


def _rest(table: Table) -> Sequence[str]:
    return [column.name for column in table.columns if not column.primary_key]
