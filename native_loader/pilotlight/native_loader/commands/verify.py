"""`pilotlight verify`."""

from __future__ import annotations

from pathlib import Path

import click

from pilotlight.native_loader.commands.reporting import (
    PATH,
    ledger_directory,
    one_line_errors,
    progress_shown,
)


@click.command()
@click.argument("path", type=PATH)
def verify(path: Path) -> None:
    """Read all of the checkpoint PATH and compare it with its checksums.

    A packed checkpoint says them itself, its content id too, and what its tensors
    are: all of that is compared. Of any other one
    they are learned the first time and kept in $PILOTLIGHT_HOME/checksums for as
    long as its files stay as they are. A difference names file and chunk; the exit
    code is 1.

    \b
    Example:
      pilotlight verify ~/models/llama-8b-packed
    """
    from pilotlight.native_loader.formats.checkpoint import Checkpoint
    from pilotlight.native_loader.formats.ledger import ChecksumLedger

    with one_line_errors():
        checkpoint = Checkpoint.open(path)
        with progress_shown("verifying", checkpoint.size_bytes) as progress:
            found = checkpoint.verify(ChecksumLedger(ledger_directory()), progress)
    parts = [f"{found.n_verified} chunks verified"] if found.n_verified else []
    if found.n_learned:
        parts.append(f"{found.n_learned} chunks learned, to be verified from now on")
    if found.content_id:
        parts.append(f"content id {found.content_id}")
    click.echo(f"{path}: {', '.join(parts) or 'nothing to verify'}")
