"""What the loader's verbs have in common."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

import click

from pilotlight.process.commands import CommandError, show_progress
from pilotlight.process.home import home_directory

PATH = click.Path(path_type=Path)


def ledger_directory() -> Path:
    """Return where checksums that were learned on the command line are kept."""
    return home_directory(os.environ) / "checksums"


@contextmanager
def one_line_errors() -> Generator[None]:
    """Turn the loader's errors into one line and exit code 1."""
    from pilotlight.native_loader.errors import LoaderError

    try:
        yield
    except LoaderError as exc:
        raise CommandError(str(exc)) from exc


@contextmanager
def progress_shown(label: str, total_bytes: int) -> Generator[Callable[[int, int], None]]:
    """Show how far a long read is; yields what the loader wants to be told by."""
    with show_progress(label, total_bytes) as progress:
        yield lambda done_bytes, _: progress.update(done_bytes)
