"""The verb db: the SQL state and its schema."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from pilotlight.process import tables
from pilotlight.process.commands import output_option
from pilotlight.scheduler.cli.serving import config_option, home_of, read_controller_settings

F = TypeVar("F", bound=Callable[..., Any])

COLUMNS = (
    tables.text("state"),
    tables.text("schema"),
    tables.text("expected"),
    tables.text("is_current", "CURRENT"),
)


def _state_options(command: F) -> F:
    url = click.option(
        "--url",
        default=None,
        help="sqlite:////PATH or postgresql://USER@HOST/NAME."
        "  [default: what a controller with the same settings uses]",
    )
    return config_option(url(command))


def _state(config: Path | None, url: str | None) -> str:
    from pilotlight.scheduler.driver.settings import state_url

    settings = read_controller_settings(config, {"database": url})
    return state_url(settings, home_of(settings))


@click.group()
def db() -> None:
    """Upgrade the SQL state, or show its schema."""


@db.command()
@_state_options
def upgrade(config: Path | None, url: str | None) -> None:
    """Bring the state to this version's schema, all or nothing."""
    from pilotlight.scheduler import store

    url = _state(config, url)
    before = store.upgrade(url)
    if before.is_current:
        click.echo(f"{store.describe_url(url)} is at schema {before.expected} already")
    else:
        found = before.found or "nothing"
        click.echo(f"{store.describe_url(url)}: upgraded from {found} to {before.expected}")


@db.command()
@_state_options
@output_option
def current(config: Path | None, url: str | None, output: tables.OutputFormat) -> None:
    """Show the state's schema and the one that this version needs."""
    from pilotlight.scheduler import store

    url = _state(config, url)
    version = store.current(url)
    row = {
        "state": store.describe_url(url),
        "schema": version.found,
        "expected": version.expected,
        "is_current": version.is_current,
    }
    tables.write_rows([row], COLUMNS, format=output)
