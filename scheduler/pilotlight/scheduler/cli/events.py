"""The verb events: what happens in the cluster, as it happens."""

from __future__ import annotations

import json

import click

from pilotlight.process.ports import Address
from pilotlight.process.quantities import format_moment
from pilotlight.scheduler.cli.controller import connected, controller_option

_LOG_LINES = 5
"""Shown of a worker's last words; JSON has all that came."""


@click.command()
@click.option(
    "-o",
    "--output",
    type=click.Choice(["table", "json"]),
    default="table",
    show_default=True,
    help="A line of text for each, or of JSON.",
)
@controller_option
def events(output: str, controller: Address) -> None:
    """Show what happens, line by line, until Ctrl-C."""
    from pilotlight.scheduler.cli.rows import flat_row
    from pilotlight.scheduler.protocol import control_plane_pb2 as pb

    with connected(controller) as stub:
        for event in stub.WatchEvents(pb.WatchEventsRequest()):
            if output == "json":
                click.echo(json.dumps(flat_row(event)))
            else:
                click.echo(f"{format_moment(event.at)}  {event.kind:<15}  {event.text}")
                for line in event.log_tail.splitlines()[-_LOG_LINES:]:
                    click.echo(f"    | {line}")
