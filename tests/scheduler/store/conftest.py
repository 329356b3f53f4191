from __future__ import annotations

import itertools
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest
from sqlalchemy import create_engine, text

from pilotlight.scheduler.store import StateStore, sqlite_url, this_process, upgrade
from pilotlight.scheduler.store.engine import open_engine, read_url

_databases = itertools.count(1)


class PostgresServer:
    """A server of its own, in a folder of its own, reached by a socket there."""

    def __init__(self, programs: Path, folder: Path) -> None:
        self._programs = programs
        self._folder = folder
        # PostgreSQL refuses to run as root.
        self._user = "postgres" if os.geteuid() == 0 else None

    def start(self) -> None:
        if self._user is not None:
            shutil.chown(self._folder, self._user)
        self._run("initdb", "-A", "trust", "-U", "postgres", "--no-sync")
        options = f"-F -k {self._folder} -c listen_addresses=''"
        self._run(
            "pg_ctl", "-w", "-t", "60", "-l", str(self._folder / "log"), "-o", options, "start"
        )

    def stop(self) -> None:
        self._run("pg_ctl", "-w", "-m", "immediate", "stop")

    def url(self, database: str) -> str:
        return f"postgresql://postgres@/{database}?host={self._folder}"

    def create_database(self) -> str:
        name = f"state_{next(_databases)}"
        engine = create_engine(self.url("postgres").replace("postgresql:", "postgresql+psycopg:"))
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(text(f"create database {name}"))
        engine.dispose()
        return self.url(name)

    def _run(self, program: str, *arguments: str) -> None:
        subprocess.run(
            [self._programs / program, "-D", self._folder, *arguments],
            user=self._user,
            group=self._user,
            extra_groups=None if self._user is None else [],
            cwd=self._folder,
            check=True,
            timeout=120,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )


def _postgres_programs() -> Path | None:
    found = shutil.which("initdb")
    folders = [Path(found).resolve().parent] if found else []
    folders += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    return next((folder for folder in folders if (folder / "pg_ctl").exists()), None)


@pytest.fixture(scope="session")
def _postgres() -> Iterator[PostgresServer | str]:
    """Yield a running server, or why there is none."""
    programs = _postgres_programs()
    if programs is None:
        yield "its programs are not installed"
        return
    if os.geteuid() == 0 and not any(user.pw_name == "postgres" for user in pwd.getpwall()):
        yield "it refuses to run as root, and there is no user named postgres"
        return
    folder = Path(tempfile.mkdtemp(prefix="pilotlight-postgres-"))
    server = PostgresServer(programs, folder)
    try:
        server.start()
        yield server
        server.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def postgres(
    _postgres: PostgresServer | str, absent: Callable[[str, str], NoReturn]
) -> PostgresServer:
    if isinstance(_postgres, str):
        absent("postgres", _postgres)
    return _postgres


@pytest.fixture
def sqlite_file(tmp_path: Path) -> Path:
    return tmp_path / "state.db"


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, sqlite_file: Path) -> str:
    """Return the URL of an empty database, once of each kind."""
    if request.param == "sqlite":
        return sqlite_url(sqlite_file)
    server: Any = request.getfixturevalue("postgres")
    return str(server.create_database())


@pytest.fixture
def execute() -> Callable[[str, str], None]:
    """Return what runs one statement on a state, as its operator might."""

    def run(url: str, statement: str) -> None:
        engine = open_engine(read_url(url))
        with engine.begin() as connection:
            connection.execute(text(statement))
        engine.dispose()

    return run


@pytest.fixture
async def store(url: str) -> AsyncIterator[StateStore]:
    """Yield a store that leads."""
    upgrade(url)
    store = StateStore(url)
    await store.open()
    await store.acquire(this_process(), 60.0)
    yield store
    await store.close()
