"""The database's own clock, so that controllers need not agree on theirs."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Double
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement


class database_now(FunctionElement[float]):
    """Seconds since 1970, by the clock of the database's machine."""

    type = Double[float]()
    inherit_cache = True


@compiles(database_now, "sqlite")
def _on_sqlite(_element: database_now, _compiler: Any, **_: Any) -> str:
    # 2440587.5 is the Julian day of 1970-01-01; unixepoch('subsec') needs SQLite 3.42.
    return "((julianday('now') - 2440587.5) * 86400.0)"


@compiles(database_now, "postgresql")
def _on_postgresql(_element: database_now, _compiler: Any, **_: Any) -> str:
    # now() stands still within a transaction, which may have waited for a lock.
    return "extract(epoch from clock_timestamp())::double precision"
