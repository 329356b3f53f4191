"""`pilotlight pack`."""

from __future__ import annotations

from pathlib import Path

import click

from pilotlight.native_loader.commands.reporting import PATH, one_line_errors, progress_shown


@click.command()
@click.argument("source", type=PATH)
@click.argument("destination", type=PATH)
@click.option("--force", is_flag=True, help="Replace DESTINATION if it is a packed checkpoint.")
def pack(source: Path, destination: Path, force: bool) -> None:
    """Write a packed copy of the safetensors checkpoint SOURCE to DESTINATION.

    A packed checkpoint has its tensors aligned and in the order of execution,
    checksums for every chunk, and an id of its content. Other tools read it as the
    safetensors checkpoint that it is. DESTINATION appears whole or not at all.

    \b
    Example:
      pilotlight pack ~/models/llama-8b ~/models/llama-8b-packed
      pilotlight verify ~/models/llama-8b-packed
    """
    from pilotlight.native_loader.checkpoint import Checkpoint
    from pilotlight.native_loader.packing import pack as write_packed
    from pilotlight.process.quantities import format_bytes

    with one_line_errors():
        opened = Checkpoint.open(source)
        with progress_shown("packing", opened.size_bytes) as progress:
            packed = write_packed(opened, destination, replace=force, progress=progress)
    click.echo(
        f"{destination}: {format_bytes(packed.size_bytes)}, {len(packed.tensors)} tensors,"
        f" content id {packed.content_id}"
    )
