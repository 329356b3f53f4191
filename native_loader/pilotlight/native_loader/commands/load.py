"""`pilotlight load`."""

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
@click.option(
    "--device",
    default="cpu",
    show_default=True,
    metavar="cpu|cuda|cuda:N",
    help="Where the tensors go.",
)
@click.option("--direct", is_flag=True, help="Read the disk even for what the page cache holds.")
def load(path: Path, device: str, direct: bool) -> None:
    """Load the checkpoint PATH once and say how fast that was, and why not faster.

    The tensors are gone when the command ends: it measures a disk, or shows that a
    checkpoint loads. A large file on a disk that was not read before is probed first,
    for a fifth of a second; "disk-bound: 2.21 of 2.30 GB/s" means that nothing but
    the disk was waited for.

    \b
    Example:
      pilotlight load --direct ~/models/llama-8b
      pilotlight load --device cuda:1 ~/models/llama-8b
    """
    import time

    from pilotlight.native_loader.formats.checkpoint import Checkpoint
    from pilotlight.native_loader.formats.ledger import ChecksumLedger
    from pilotlight.native_loader.loading import load_weights
    from pilotlight.process.quantities import format_bytes, format_rate, format_seconds

    with one_line_errors():
        checkpoint = Checkpoint.open(path)
        with progress_shown("loading", checkpoint.size_bytes) as progress:
            started = time.monotonic()
            _, result = load_weights(
                checkpoint,
                device,
                ledger=ChecksumLedger(ledger_directory()),
                progress=progress,
                use_page_cache=not direct,
            )
            seconds = time.monotonic() - started
    click.echo(
        f"{path}: {format_bytes(result.bytes_read)} in {format_seconds(seconds)},"
        f" {format_rate(result.bytes_read / seconds)}; {result.bottleneck};"
        f" checksums {result.checksum}"
    )
