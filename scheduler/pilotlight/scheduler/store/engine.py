"""SQLAlchemy engines as the state needs them."""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError

from pilotlight.scheduler.errors import StateUnavailable
from pilotlight.scheduler.store.failures import describe

BUSY_TIMEOUT_SECONDS = 5.0
"""How long a writer waits for another process's transaction."""
_SWITCH_PAUSE_SECONDS = 0.01

_READS = "pilotlight_reads"


def sqlite_url(path: Path) -> str:
    """Return the URL of a database file."""
    return URL.create("sqlite", database=str(path)).render_as_string()


def read_url(url: str) -> URL:
    """Return a state's URL with the driver that we use.

    Raises:
        StateUnavailable: it is no URL, or of a database that is not supported.
    """
    try:
        parsed = make_url(url)
    except ArgumentError as exc:
        raise StateUnavailable(
            "a state's URL looks like sqlite:////path/state.db or postgresql://user@host/name"
        ) from exc
    if parsed.drivername in ("sqlite", "sqlite+pysqlite") and parsed.database:
        return parsed
    if parsed.get_backend_name() in ("postgresql", "postgres"):
        return parsed.set(drivername="postgresql+psycopg")
    raise StateUnavailable(
        f"no state can be kept in {parsed.drivername!r}: take sqlite, a file, or postgresql"
    )


def describe_url(url: str) -> str:
    """Return a state's name for people: the file, or the URL without its password."""
    return describe(read_url(url))


def open_engine(url: URL) -> Engine:
    """Return an engine; nothing is connected yet."""
    if url.get_backend_name() == "sqlite":
        return _open_sqlite(url)
    timeout_ms = round(BUSY_TIMEOUT_SECONDS * 1000)
    return create_engine(
        url,
        pool_size=1,
        max_overflow=1,
        pool_pre_ping=True,
        connect_args={
            "connect_timeout": round(BUSY_TIMEOUT_SECONDS),
            "options": f"-c lock_timeout={timeout_ms} -c statement_timeout={2 * timeout_ms}",
        },
    )


def for_reading(engine: Engine) -> Engine:
    """Return the same engine, whose transactions take no write lock on SQLite."""
    return engine.execution_options(**{_READS: True})


def _use_write_ahead_log(connection: sqlite3.Connection) -> None:
    """Switch a database over, once for all.

    Of several processes that do so at once SQLite fails all but one, without
    waiting as it does elsewhere.
    """
    deadline = time.monotonic() + BUSY_TIMEOUT_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as exc:
            if exc.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(_SWITCH_PAUSE_SECONDS)


def _open_sqlite(url: URL) -> Engine:
    engine = create_engine(url, connect_args={"timeout": BUSY_TIMEOUT_SECONDS})

    @event.listens_for(engine, "connect")
    def prepare(connection: Any, _record: object) -> None:  # pyright: ignore[reportUnusedFunction] - registered
        # The driver would begin transactions by itself, late and deferred: a
        # reader that then writes fails at once where another writer was faster.
        connection.isolation_level = None
        _use_write_ahead_log(connection)
        # Nothing is sent to a node before its decision is on the disk. That costs a
        # commit 0.15 ms more than NORMAL here (0.35 instead of 0.2 ms), and a start
        # makes a handful of them.
        connection.execute("PRAGMA synchronous = FULL")

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:  # pyright: ignore[reportUnusedFunction] - registered
        reads = connection.get_execution_options().get(_READS, False)
        connection.exec_driver_sql("BEGIN" if reads else "BEGIN IMMEDIATE")

    return engine
