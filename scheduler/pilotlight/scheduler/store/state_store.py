"""The SQL state as the controller uses it: one writer, one short transaction a call.

All of it runs in one thread of its own, in the order of the calls, so that the
event loop never waits for a disk. A call that is cancelled may be carried out
all the same.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from sqlalchemy import Connection, Engine, Select, Table, select, tuple_

from pilotlight.scheduler.errors import LeadershipLost
from pilotlight.scheduler.store import leadership, rows, tables, writes
from pilotlight.scheduler.store.engine import for_reading, open_engine, read_url
from pilotlight.scheduler.store.failures import translated
from pilotlight.scheduler.store.leadership import HeldBy
from pilotlight.scheduler.store.migration import require_current
from pilotlight.scheduler.store.records import (
    Change,
    DecisionRecord,
    PutDecision,
    PutStart,
    StartPosition,
    StartRecord,
    State,
)

KEPT_ROWS = 10_000
"""Decisions and starts that are kept, each."""

# Rows that are added between two prunings; one pruning deletes at most twice as many.
_PRUNE_EVERY_ROWS = 500

T = TypeVar("T")


class StateStore:
    """The SQL state; used from one event loop.

    Nothing is written before `acquire` has made this process the leader.
    """

    def __init__(self, url: str, *, kept_rows: int = KEPT_ROWS) -> None:
        self._url = read_url(url)
        self._kept_rows = kept_rows
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="state")
        self._writer: Engine | None = None
        self._epoch: int | None = None
        self._holder = ""
        self._lease_seconds = 0.0
        self._rows_since_pruning = 0

    @property
    def epoch(self) -> int | None:
        """Return the epoch that this process leads with, or None."""
        return self._epoch

    async def open(self) -> None:
        """Connect.

        Raises:
            StateUnavailable: it can't be used, or its schema is not this version's.
        """
        await self._run(self._open)

    async def close(self) -> None:
        """Let go of the database once all calls are carried out; the lease stays as it is."""
        await self._run(self._close)
        self._thread.shutdown()

    # Every method below raises StateUnavailable where the database refuses. The epoch is
    # read and changed in the thread only: calls that wait there find it as it is by then.

    async def acquire(self, holder: str, lease_seconds: float) -> int | HeldBy:
        """Become the leader and return the new epoch, or who leads.

        A holder of this machine (see `this_process`) whose process is gone is
        replaced at once, others when their lease has ended.
        """

        def acquire() -> int | HeldBy:
            found = self._transact(
                lambda connection: leadership.acquire(
                    connection, holder, lease_seconds=lease_seconds
                )
            )
            if not isinstance(found, HeldBy):
                self._epoch, self._holder, self._lease_seconds = found, holder, lease_seconds
            return found

        return await self._run(acquire)

    async def renew(self) -> None:
        """Lead for another `lease_seconds` from now.

        Raises:
            LeadershipLost: another process leads; nothing can be written any more.
        """

        def renew(connection: Connection, epoch: int) -> None:
            leadership.renew(connection, epoch, self._holder, lease_seconds=self._lease_seconds)

        await self._run(lambda: self._lead(renew))

    async def raise_epoch(self, above: int) -> int:
        """Take and return an epoch above `above`, which a node has reported, and the present one.

        Raises:
            LeadershipLost: another process leads.
        """

        def raise_epoch(connection: Connection, epoch: int) -> int:
            return leadership.raise_epoch(
                connection, epoch, self._holder, above=above, lease_seconds=self._lease_seconds
            )

        def take() -> int:
            self._epoch = self._lead(raise_epoch)
            return self._epoch

        return await self._run(take)

    async def release(self) -> None:
        """Stop leading, so that another process may begin at once."""

        def release() -> None:
            epoch, self._epoch = self._epoch, None
            if epoch is not None:
                self._transact(
                    lambda connection: leadership.release(connection, epoch, self._holder)
                )

        await self._run(release)

    async def apply(self, changes: Sequence[Change]) -> None:
        """Write changes in their order, all or none; when this returns they are on the disk.

        Raises:
            LeadershipLost: another process leads; nothing was written.
        """
        added = sum(isinstance(change, PutDecision | PutStart) for change in changes)

        def write(connection: Connection, epoch: int) -> None:
            leadership.require_epoch(connection, epoch)
            writes.write_changes(connection, changes, epoch=epoch)
            if self._rows_since_pruning + added >= _PRUNE_EVERY_ROWS:
                writes.prune(connection, keep_rows=self._kept_rows)

        def apply() -> None:
            self._lead(write)
            self._rows_since_pruning = (self._rows_since_pruning + added) % _PRUNE_EVERY_ROWS

        await self._run(apply)

    async def load_state(self) -> State:
        """Return all models, nodes and replicas."""

        def load(connection: Connection) -> State:
            return State(
                models=_all(connection, tables.models, rows.model_of),
                nodes=_all(connection, tables.nodes, rows.node_record),
                replicas=_all(connection, tables.replicas, rows.replica_record),
            )

        return await self._read(load)

    async def list_starts(
        self, limit: int, *, before: StartPosition | None = None
    ) -> tuple[StartRecord, ...]:
        """Return starts, newest first, from the newest one that is before `before`."""
        return await self._read(lambda connection: _starts(connection, limit, before))

    async def find_decision(self, decision_id: str) -> DecisionRecord | None:
        """Return a decision, or None if it is not or no longer known."""
        table = tables.decisions

        def find(connection: Connection) -> DecisionRecord | None:
            query = select(table).where(table.c.decision_id == decision_id)
            row = connection.execute(query).mappings().one_or_none()
            return None if row is None else rows.decision_record(row)

        return await self._read(find)

    def _open(self) -> None:
        require_current(self._url)
        self._writer = open_engine(self._url)

    def _close(self) -> None:
        if self._writer is not None:
            self._writer.dispose()
            self._writer = None

    async def _read(self, work: Callable[[Connection], T]) -> T:
        def read() -> T:
            with for_reading(self._engine()).begin() as connection:
                return work(connection)

        return await self._run(read)

    def _lead(self, work: Callable[[Connection, int], T]) -> T:
        """Do what only the leader may, in one transaction."""
        epoch = self._epoch
        if epoch is None:
            raise LeadershipLost("this process does not lead")
        return self._transact(lambda connection: work(connection, epoch))

    def _transact(self, work: Callable[[Connection], T]) -> T:
        with self._engine().begin() as connection:
            return work(connection)

    def _engine(self) -> Engine:
        assert self._writer is not None, "open() comes first"
        return self._writer

    async def _run(self, work: Callable[[], T]) -> T:
        def translate() -> T:
            with translated(self._url):
                return work()

        return await asyncio.get_running_loop().run_in_executor(self._thread, translate)


def _all(connection: Connection, table: Table, record: Callable[[rows.Row], T]) -> tuple[T, ...]:
    query = select(table).order_by(*table.primary_key.columns)
    return tuple(record(row) for row in connection.execute(query).mappings())


def _starts(
    connection: Connection, limit: int, before: StartPosition | None
) -> tuple[StartRecord, ...]:
    table = tables.starts
    query: Select[tuple[object, ...]] = select(table)
    if before is not None:
        query = query.where(tuple_(table.c.started_at, table.c.replica_id) < tuple_(*before))
    query = query.order_by(table.c.started_at.desc(), table.c.replica_id.desc()).limit(limit)
    return tuple(rows.start_record(row) for row in connection.execute(query).mappings())
