"""The verb db: the SQL state and its schema."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, TypeVar

import click

from pilotlight.process import tables
from pilotlight.process.commands import output_option

F = TypeVar("F", bound=Callable[..., Any])

COLUMNS = (
    tables.text("state"),
    tables.text("schema"),
    tables.text("expected"),
    tables.text("is_current", "CURRENT"),
)


def _url_option(command: F) -> F:
    return click.option(
        "--url",
        envvar="PILOTLIGHT_STATE_URL",
        show_envvar=True,
        help="sqlite:////PATH or postgresql://USER@HOST/NAME."
        "  [default: state.db in $PILOTLIGHT_HOME or ~/.pilotlight]",
    )(command)


@click.group()
def db() -> None:
    """Upgrade the SQL state, or show its schema."""


@db.command()
@_url_option
def upgrade(url: str | None) -> None:
    """Bring the state to this version's schema, all or nothing."""
    from pilotlight.scheduler import store

    url = url or store.default_url(os.environ)
    before = store.upgrade(url)
    if before.is_current:
        click.echo(f"{store.describe_url(url)} is at schema {before.expected} already")
    else:
        found = before.found or "nothing"
        click.echo(f"{store.describe_url(url)}: upgraded from {found} to {before.expected}")


@db.command()
@_url_option
@output_option
def current(url: str | None, output: tables.OutputFormat) -> None:
    """Show the state's schema and the one that this version needs."""
    from pilotlight.scheduler import store

    url = url or store.default_url(os.environ)
    version = store.current(url)
    row = {
        "state": store.describe_url(url),
        "schema": version.found,
        "expected": version.expected,
        "is_current": version.is_current,
    }
    tables.write_rows([row], COLUMNS, format=output)
