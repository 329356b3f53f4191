"""Runs the migrations on a connection; `pilotlight db upgrade` hands one over.

For developers, `alembic -x url=sqlite:///state.db revision -m "..."` opens its own.
"""

from __future__ import annotations

from alembic import context
from sqlalchemy import Connection

from pilotlight.scheduler.store.engine import open_engine, read_url
from pilotlight.scheduler.store.migration import VERSION_TABLE
from pilotlight.scheduler.store.tables import metadata


def _run(connection: Connection) -> None:
    context.configure(
        connection=connection,
        target_metadata=metadata,
        version_table=VERSION_TABLE,
        compare_type=True,
        # SQLite alters a table by making it anew.
        render_as_batch=True,
        transactional_ddl=True,
    )
    with context.begin_transaction():
        context.run_migrations()


def _run_on_own_connection() -> None:
    url = context.get_x_argument(as_dictionary=True)["url"]
    with open_engine(read_url(str(url))).begin() as connection:
        _run(connection)


if (given := context.config.attributes.get("connection")) is not None:
    _run(given)
else:
    _run_on_own_connection()
