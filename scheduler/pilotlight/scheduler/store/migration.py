"""The schema of the SQL state and its versions."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import URL, Connection, inspect, text

import pilotlight.scheduler
from pilotlight.scheduler.errors import StateUnavailable
from pilotlight.scheduler.store.engine import for_reading, open_engine, read_url
from pilotlight.scheduler.store.failures import describe, translated
from pilotlight.scheduler.store.tables import metadata

VERSION_TABLE = "pilotlight_schema"

# Any number that no other program is likely to take: two controllers that start
# at once upgrade one after the other.
_UPGRADE_LOCK = 0x70696C6F74


@dataclass(frozen=True, slots=True, kw_only=True)
class SchemaVersion:
    """The schema that a state has, and the one that this version of Pilotlight uses."""

    found: str | None
    """None = it has none yet."""
    expected: str
    is_known: bool
    """False where the state was made by a newer version, or by another program."""

    @property
    def is_current(self) -> bool:
        """True if the state can be used as it is."""
        return self.found == self.expected


def upgrade(url: str) -> SchemaVersion:
    """Bring a state to this version's schema, all or nothing; return what it was.

    A file of SQLite and its folder are made where they are missing.

    Raises:
        StateUnavailable: it can't be used, is newer, or is no state of Pilotlight.
    """
    return _upgrade(read_url(url))


def current(url: str) -> SchemaVersion:
    """Return the schema that a state has.

    Raises:
        StateUnavailable: it can't be used.
    """
    return _current(read_url(url))


def check(url: str) -> None:
    """Refuse a state whose tables are not what this version's code says.

    Raises:
        StateUnavailable: names the differences.
    """
    parsed = read_url(url)
    require_current(parsed)
    from alembic.autogenerate import compare_metadata

    with _connected(parsed, reads=True) as connection:
        context = MigrationContext.configure(
            connection, opts={"version_table": VERSION_TABLE, "compare_type": True}
        )
        differences = compare_metadata(context, metadata)
    if differences:
        raise StateUnavailable(f"the state {describe(parsed)} differs: {differences}")


def prepare(url: str) -> None:
    """Make a state ready for a controller that starts: SQLite is upgraded, others are checked.

    A database server may have other users, so its upgrade is its operator's decision.

    Raises:
        StateUnavailable: it can't be used, or must be upgraded first.
    """
    parsed = read_url(url)
    if parsed.get_backend_name() == "sqlite":
        _upgrade(parsed)
    else:
        require_current(parsed)


def require_current(url: URL) -> None:
    """Refuse a state with another schema.

    Raises:
        StateUnavailable: it is newer, or must be upgraded first.
    """
    version = _current(url)
    if not version.is_known:
        raise StateUnavailable(_newer(url, version))
    if not version.is_current:
        found = f"schema {version.found}" if version.found else "no schema yet"
        raise StateUnavailable(
            f"the state {describe(url)} has {found}, this version needs {version.expected}; "
            "run: pilotlight db upgrade"
        )


def migrations_directory() -> Path:
    """Return where the migrations lie: in the installed package, else in the checkout."""
    installed = Path(str(files(pilotlight.scheduler) / "migrations"))
    if installed.is_dir():
        return installed
    return Path(pilotlight.scheduler.__path__[0]).parents[2] / "migrations"


def alembic_config() -> Config:
    """Return alembic's configuration; `attributes["connection"]` is to be set."""
    config = Config()
    # Alembic reads "%" as the start of an interpolation.
    config.set_main_option("script_location", str(migrations_directory()).replace("%", "%%"))
    return config


def _upgrade(url: URL) -> SchemaVersion:
    if url.get_backend_name() == "sqlite":
        _make_folder(url)
    with _connected(url) as connection:
        if url.get_backend_name() == "postgresql":
            connection.execute(text("select pg_advisory_xact_lock(:key)"), {"key": _UPGRADE_LOCK})
        before = _version(connection)
        if not before.is_known:
            raise StateUnavailable(_newer(url, before))
        if before.found is None:
            _require_empty(connection, url)
        if not before.is_current:
            config = alembic_config()
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
    return before


def _current(url: URL) -> SchemaVersion:
    path = url.database if url.get_backend_name() == "sqlite" else None
    if path is not None and not Path(path).exists():
        return SchemaVersion(found=None, expected=_head(), is_known=True)
    with _connected(url, reads=True) as connection:
        return _version(connection)


@contextmanager
def _connected(url: URL, *, reads: bool = False) -> Generator[Connection]:
    with translated(url):
        engine = open_engine(url)
        try:
            with (for_reading(engine) if reads else engine).begin() as connection:
                yield connection
        finally:
            engine.dispose()


def _version(connection: Connection) -> SchemaVersion:
    context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE})
    found = context.get_current_revision()
    known = {script.revision for script in _scripts().walk_revisions()}
    return SchemaVersion(found=found, expected=_head(), is_known=found is None or found in known)


def _require_empty(connection: Connection, url: URL) -> None:
    foreign = sorted(set(inspect(connection).get_table_names()) & set(metadata.tables))
    if foreign:
        raise StateUnavailable(
            f"the state {describe(url)} holds tables of another program: {', '.join(foreign)}"
        )


def _newer(url: URL, version: SchemaVersion) -> str:
    return (
        f"the state {describe(url)} has schema {version.found}, newer than this version of "
        f"Pilotlight knows ({version.expected}); install the version that made it"
    )


def _make_folder(url: URL) -> None:
    try:
        Path(url.database or "").absolute().parent.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise StateUnavailable(f"the state {describe(url)}: {exc.strerror}") from exc


def _scripts() -> ScriptDirectory:
    return ScriptDirectory.from_config(alembic_config())


def _head() -> str:
    head = _scripts().get_current_head()
    assert head is not None, "the package ships its migrations"
    return head
