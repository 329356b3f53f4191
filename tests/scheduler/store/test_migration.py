from __future__ import annotations

import sqlite3
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from alembic import command
from sqlalchemy import inspect

from pilotlight.scheduler.errors import StateUnavailable
from pilotlight.scheduler.store import StateStore, check, current, prepare, sqlite_url, upgrade
from pilotlight.scheduler.store.engine import open_engine, read_url
from pilotlight.scheduler.store.migration import (
    VERSION_TABLE,
    alembic_config,
    migrations_directory,
)
from pilotlight.scheduler.store.tables import metadata

pytestmark = pytest.mark.integration

Execute = Callable[[str, str], None]


def table_names(url: str) -> set[str]:
    engine = open_engine(read_url(url))
    with engine.begin() as connection:
        names = set(inspect(connection).get_table_names())
    engine.dispose()
    return names


def refusal(url: str) -> str:
    """Return why a state is refused, by every way to begin with it."""
    with pytest.raises(StateUnavailable) as refused:
        upgrade(url)
    text = str(refused.value)
    assert "\n" not in text
    return text


def test_upgrading_an_empty_database_makes_what_the_code_says(url: str) -> None:
    before = upgrade(url)

    assert before.found is None
    assert current(url).is_current
    check(url)


def test_each_revision_goes_down_and_up_again(url: str) -> None:
    upgrade(url)
    config = alembic_config()
    engine = open_engine(read_url(url))
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.downgrade(config, "base")
    engine.dispose()

    assert table_names(url) == {VERSION_TABLE}
    assert current(url).found is None
    upgrade(url)
    check(url)


def test_upgrading_twice_changes_nothing(url: str, execute: Execute) -> None:
    upgrade(url)
    execute(url, "update leadership set epoch = 7")

    before = upgrade(url)

    assert before.is_current
    execute(url, "update leadership set epoch = 1 / (case epoch when 7 then 1 else 0 end)")


def test_several_processes_may_upgrade_at_once(url: str) -> None:
    with ThreadPoolExecutor() as threads:
        versions = list(threads.map(upgrade, [url] * 4))

    assert sorted(version.is_current for version in versions) == [False, True, True, True]
    check(url)


def test_a_check_tells_what_differs(url: str, execute: Execute) -> None:
    upgrade(url)
    execute(url, "alter table nodes drop column version")

    with pytest.raises(StateUnavailable, match="'version'"):
        check(url)


async def test_a_newer_schema_is_refused(url: str, execute: Execute) -> None:
    upgrade(url)
    execute(url, f"update {VERSION_TABLE} set version_num = '9999'")

    assert "has schema 9999, newer than this version of Pilotlight knows (0002)" in refusal(url)
    store = StateStore(url)
    with pytest.raises(StateUnavailable, match="newer than this version"):
        await store.open()
    await store.close()
    assert not current(url).is_known


async def test_a_state_without_a_schema_says_what_to_run(url: str) -> None:
    store = StateStore(url)

    with pytest.raises(StateUnavailable, match=r"no schema yet.*run: pilotlight db upgrade"):
        await store.open()
    await store.close()


def test_a_controller_upgrades_a_file_by_itself(sqlite_file: Path) -> None:
    prepare(sqlite_url(sqlite_file))

    check(sqlite_url(sqlite_file))


@pytest.mark.parametrize("url", ["postgresql"], indirect=True)
def test_a_controller_leaves_the_upgrade_of_a_server_to_its_operator(url: str) -> None:
    with pytest.raises(StateUnavailable, match="run: pilotlight db upgrade"):
        prepare(url)

    assert table_names(url) == set()
    upgrade(url)
    prepare(url)


def test_tables_of_another_program_are_not_touched(url: str, execute: Execute) -> None:
    execute(url, "create table models (id integer primary key)")

    assert "holds tables of another program: models" in refusal(url)
    assert table_names(url) == {"models"}


def test_a_file_that_is_no_database_is_refused(sqlite_file: Path) -> None:
    sqlite_file.write_text("not a database " * 1000)

    assert refusal(sqlite_url(sqlite_file)) == (
        f"the state {sqlite_file}: it is not a Pilotlight database"
    )


def test_a_damaged_file_is_refused(sqlite_file: Path) -> None:
    upgrade(sqlite_url(sqlite_file))
    with sqlite_file.open("r+b") as file:
        file.seek(100)  # behind the header: the root page of the schema
        file.write(b"\xff" * 3996)

    assert "it is damaged" in refusal(sqlite_url(sqlite_file))


def test_a_folder_is_no_state(tmp_path: Path) -> None:
    assert "it can't be opened" in refusal(sqlite_url(tmp_path))


def test_a_folder_that_can_not_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    assert refusal(sqlite_url(tmp_path / "file" / "below" / "state.db")).endswith("Not a directory")


def test_a_server_that_does_not_answer_is_one_line(tmp_path: Path) -> None:
    text = refusal(f"postgresql://me:secret@/name?host={tmp_path}")

    assert str(tmp_path) in text
    assert "secret" not in text


def test_a_server_without_its_driver_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)

    assert "pip install 'pilotlight[postgres]'" in refusal("postgresql://localhost/name")


@pytest.mark.parametrize("url", ["", "state.db", "sqlite://", "mysql://localhost/name"])
def test_what_is_no_url_of_a_state_is_refused(url: str) -> None:
    assert "sqlite" in refusal(url)


def test_migrations_are_found_in_the_checkout() -> None:
    assert (migrations_directory() / "versions" / "0001_create_state.py").is_file()


def test_the_first_line_of_each_migration_is_for_operators() -> None:
    for script in (migrations_directory() / "versions").glob("*.py"):
        first = script.read_text().splitlines()[0]
        assert first.startswith('"""')
        assert first.endswith('."""')


def test_every_table_has_a_primary_key() -> None:
    assert all(table.primary_key.columns for table in metadata.sorted_tables)


def test_files_are_in_wal_mode(sqlite_file: Path) -> None:
    upgrade(sqlite_url(sqlite_file))

    with sqlite3.connect(sqlite_file) as connection:
        assert connection.execute("pragma journal_mode").fetchone() == ("wal",)
    connection.close()
