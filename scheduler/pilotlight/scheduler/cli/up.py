"""The verbs that run a cluster: controller, up."""

from __future__ import annotations

from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pilotlight.process.commands import BYTES, exit_with_parent_option
from pilotlight.process.lifeline import die_with_parent
from pilotlight.process.quantities import ByteCount, format_count
from pilotlight.scheduler.cli.serving import (
    announce_doors,
    config_option,
    home_of,
    read_controller_settings,
    serve,
)

if TYPE_CHECKING:
    from pilotlight.scheduler.driver.controller import Doors

_listen = click.option(
    "--listen", metavar="HOST:PORT", default=None, help="gRPC.  [default: 127.0.0.1:50051]"
)
_http = click.option(
    "--http", metavar="HOST:PORT", default=None, help="HTTP.  [default: 127.0.0.1:8000]"
)
_policy = click.option(
    "--policy", default=None, help="What decides where models start.  [default: serverlessllm]"
)


def _overrides(listen: str | None, http: str | None, policy: str | None) -> dict[str, Any]:
    return {"listen": listen, "http.listen": http, "policy": policy}


@click.command()
@config_option
@_listen
@_http
@_policy
@exit_with_parent_option
def controller(
    config: Path | None,
    listen: str | None,
    http: str | None,
    policy: str | None,
    parent_pid: int | None,
) -> None:
    """Run a controller and its gateway; nodes connect to it.

    Data lies in $PILOTLIGHT_HOME (~/.pilotlight). Settings come from --config,
    the environment (PILOTLIGHT_POLICY, PILOTLIGHT_HTTP__LISTEN …) and flags, the
    later winning.

    \b
    On one machine:    pilotlight controller
    On each other:     pilotlight node --controller HOST:50051 --models /models
    """
    if parent_pid is not None:
        die_with_parent(parent_pid or None)
    settings = read_controller_settings(config, _overrides(listen, http, policy))
    home = home_of(settings)

    async def prepare(doors: Doors, stack: AsyncExitStack) -> None:
        announce_doors(home, doors, stack)
        click.echo(f"controller: http://{doors.http}/v1, gRPC {doors.grpc}; data in {home}")

    serve(settings, home=home, prepare=prepare)


@click.command()
@config_option
@_listen
@_http
@_policy
@click.option(
    "--nodes", "n_nodes", type=click.IntRange(0), default=1, show_default=True, help="Store nodes."
)
@click.option(
    "--models",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    multiple=True,
    help="A model root of every node; may be repeated.  [default: $PILOTLIGHT_HOME/models]",
)
@click.option("--devices", type=click.IntRange(1), default=None, help="CPU slots of each node.")
@click.option("--dram", "dram_bytes", type=BYTES, default=None, help="DRAM tier of each node.")
def up(
    config: Path | None,
    listen: str | None,
    http: str | None,
    policy: str | None,
    n_nodes: int,
    models: tuple[Path, ...],
    devices: int | None,
    dram_bytes: ByteCount | None,
) -> None:
    """Run a whole cluster on this machine: a controller, its gateway, store nodes.

    Ctrl-C stops it and leaves nothing running.

    \b
    pilotlight up --models ~/models
    pilotlight deploy llama ~/models/llama
    pilotlight chat llama
    """
    settings = read_controller_settings(config, _overrides(listen, http, policy))
    home = home_of(settings)
    roots = models or (home / "models",)
    for root in roots:
        root.mkdir(parents=True, exist_ok=True)

    async def prepare(doors: Doors, stack: AsyncExitStack) -> None:
        from pilotlight.scheduler.cli.node_processes import NodeProcesses

        announce_doors(home, doors, stack)
        nodes = NodeProcesses(
            home=home,
            controller=doors.grpc,
            roots=roots,
            devices=devices,
            dram_bytes=dram_bytes,
            n_nodes=n_nodes,
        )
        stack.push_async_callback(nodes.stop)
        for number in range(1, n_nodes + 1):
            await nodes.start(f"node-{number}")
        stack.callback(doors.stop_taking)
        await nodes.wait_joined(doors)
        click.echo(
            f"cluster: http://{doors.http}/v1, gRPC {doors.grpc}, {format_count(n_nodes, 'node')};"
            f" models below {', '.join(map(str, roots))}; data in {home}"
        )

    serve(settings, home=home, prepare=prepare)
