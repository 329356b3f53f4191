"""A database's failures, in one line for whoever runs it."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

from sqlalchemy import URL, exc

from pilotlight.scheduler.errors import StateUnavailable

# What SQLite says → what it means here.
_SQLITE_REASONS = (
    ("database or disk is full", "the disk is full"),
    ("disk i/o error", "the disk failed, or is full"),
    ("file is not a database", "it is not a Pilotlight database"),
    ("malformed", "it is damaged; restore a copy, or remove it to begin with an empty state"),
    ("database is locked", "another process keeps it locked"),
    ("unable to open database file", "it can't be opened; check the folder and its permissions"),
    ("readonly database", "it may not be written; check its permissions and the folder's"),
)


@contextmanager
def translated(url: URL) -> Generator[None]:
    """Raise StateUnavailable for what the database refuses in the block."""
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name != "psycopg":
            raise
        raise StateUnavailable(
            f"the state {describe(url)} needs psycopg; "
            "install it with: pip install 'pilotlight[postgres]'"
        ) from error
    except exc.SQLAlchemyError as error:
        raise StateUnavailable(f"the state {describe(url)}: {_reason(error)}") from error


def describe(url: URL) -> str:
    """Return a database's name for people, without its password."""
    if url.get_backend_name() == "sqlite":
        return url.database or "in memory"
    return url.render_as_string(hide_password=True)


def _reason(error: exc.SQLAlchemyError) -> str:
    text = str(error.orig if isinstance(error, exc.DBAPIError) else error)
    for said, meaning in _SQLITE_REASONS:
        if said in text.lower():
            return meaning
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
