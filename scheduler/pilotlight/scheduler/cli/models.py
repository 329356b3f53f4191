"""Verbs about models: deploy, delete, fetch, evict, models."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import click

from pilotlight.process import tables
from pilotlight.process.commands import SECONDS, output_option
from pilotlight.process.ports import Address
from pilotlight.process.quantities import format_bytes
from pilotlight.scheduler.cli.controller import (
    DEADLINE_SECONDS,
    connected,
    controller_option,
    pages,
)

if TYPE_CHECKING:
    from pilotlight.scheduler.protocol import control_plane_pb2 as pb

COLUMNS = (
    tables.text("name", "MODEL"),
    tables.size("size_bytes"),
    tables.number("replicas_ready", "READY"),
    tables.number("replicas_starting", "STARTING"),
    tables.number("waiting"),
    tables.text("ssd_nodes", "ON SSD OF"),
    tables.text("dram_nodes", "IN DRAM OF"),
    tables.text("architecture", wide_only=True),
    tables.number("devices", wide_only=True),
    tables.text("engine", wide_only=True),
    tables.text("dtype", wide_only=True),
    tables.number("min_replicas", "MIN", wide_only=True),
    tables.number("max_replicas", "MAX", wide_only=True),
    tables.text("keep_alive", wide_only=True),
    tables.number("priority", wide_only=True),
    tables.moment("deployed_at", wide_only=True),
    tables.text("reference", wide_only=True),
    tables.text("refusal"),
)


class _KeepAlive(click.ParamType[str]):
    """A duration, or "load"."""

    name = "duration|load"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return seconds as text, or "load"."""
        return "load" if value == "load" else f"{SECONDS.convert(value, param, ctx):g}"


def _engine_options(
    _ctx: click.Context, _param: click.Parameter, values: tuple[str, ...]
) -> dict[str, str]:
    options: dict[str, str] = {}
    for value in values:
        name, separator, text = value.partition("=")
        if not separator or not name:
            raise click.BadParameter(f"expected NAME=VALUE, got {value!r}")
        if name in options:
            raise click.BadParameter(f"{name!r} is given twice")
        options[name] = text
    return options


@click.command()
@click.argument("name")
@click.argument("path")
@click.option(
    "--devices",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="Devices that each replica takes.",
)
@click.option(
    "--min-replicas",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    help="Replicas that are kept without requests.",
)
@click.option(
    "--max-replicas",
    type=click.IntRange(1),
    default=None,
    help="Replicas that are run at most.  [default: 1, or the minimum]",
)
@click.option(
    "--concurrency",
    type=click.IntRange(1),
    default=None,
    help="Requests that a replica takes at once.  [default: what the engine allows]",
)
@click.option(
    "--keep-alive",
    type=_KeepAlive(),
    default=None,
    help='How long an idle replica stays: a duration ("60s"), or "load", as long as its '
    "load takes.  [default: the controller's]",
)
@click.option(
    "--priority",
    type=int,
    default=0,
    show_default=True,
    help="Of two models that wait, the higher goes first.",
)
@click.option(
    "--queue-limit",
    type=click.IntRange(1),
    default=None,
    help="Requests that may wait for it.  [default: the controller's]",
)
@click.option("--engine", default="transformers", show_default=True, help="What computes tokens.")
@click.option(
    "--engine-option",
    "engine_options",
    multiple=True,
    callback=_engine_options,
    metavar="NAME=VALUE",
    help="An option of the engine; may be repeated.",
)
@click.option(
    "--dtype",
    default="auto",
    show_default=True,
    help="The type that weights are computed in; auto = as stored.",
)
@click.option(
    "--context-tokens",
    type=click.IntRange(1),
    default=None,
    help="The longest context.  [default: what the checkpoint says]",
)
@controller_option
def deploy(path: str, controller: Address, **fields: Any) -> None:
    """Make a model known, or change one of that NAME.

    PATH is a checkpoint: a directory of safetensors as Hugging Face lays it
    out, or one that `pilotlight pack` made, below a model root of some node. It
    may be relative to that root. Nothing is started before the first request,
    unless there are --min-replicas.
    """
    from pilotlight.scheduler.protocol import control_plane_pb2 as pb

    given = {name: value for name, value in fields.items() if value is not None}
    try:
        spec = pb.ModelSpec(path=_absolute_if_here(path), **given)
    except ValueError as exc:  # a number that its field can't hold
        raise click.UsageError(str(exc)) from exc
    with connected(controller) as stub:
        model = stub.DeployModel(
            pb.DeployModelRequest(spec=spec, idempotency_key=uuid4().hex), timeout=DEADLINE_SECONDS
        )
    click.echo(_deployed(model))


@click.command()
@click.argument("name")
@controller_option
def delete(name: str, controller: Address) -> None:
    """Stop a model's replicas and forget it; its checkpoint stays."""
    from pilotlight.scheduler.protocol import control_plane_pb2 as pb

    with connected(controller) as stub:
        stub.DeleteModel(
            pb.DeleteModelRequest(name=name, idempotency_key=uuid4().hex), timeout=DEADLINE_SECONDS
        )
    click.echo(f"deleted {name}")


_node = click.option("--node", default="", help="Only there.  [default: all that hold it]")


@click.command()
@click.argument("name")
@_node
@controller_option
def fetch(name: str, node: str, controller: Address) -> None:
    """Bring a model's checkpoint into DRAM, without starting it."""
    from pilotlight.scheduler.protocol import control_plane_pb2 as pb

    with connected(controller) as stub:
        request = pb.FetchModelRequest(name=name, node_id=node)
        answer = stub.FetchModel(request, timeout=DEADLINE_SECONDS)
    click.echo(f"fetching {name} on {', '.join(answer.node_ids)}")


@click.command()
@click.argument("name")
@_node
@controller_option
def evict(name: str, node: str, controller: Address) -> None:
    """Drop a model's checkpoint from DRAM, but for what replicas use."""
    from pilotlight.scheduler.protocol import control_plane_pb2 as pb

    with connected(controller) as stub:
        request = pb.EvictModelRequest(name=name, node_id=node)
        answer = stub.EvictModel(request, timeout=DEADLINE_SECONDS)
    click.echo(f"evicting {name} on {', '.join(answer.node_ids)}")


@click.command()
@output_option
@controller_option
def models(output: tables.OutputFormat, controller: Address) -> None:
    """List what is deployed and where it lies."""
    from pilotlight.scheduler.cli.rows import flat_row
    from pilotlight.scheduler.protocol import control_plane_pb2 as pb

    with connected(controller) as stub:
        rows = [
            flat_row(model, inline="spec")
            for page in pages(stub.ListModels, pb.ListModelsRequest)
            for model in page.models
        ]
    tables.write_rows(rows, COLUMNS, format=output, empty="no model is deployed")


def _absolute_if_here(path: str) -> str:
    """Return a path that lies here as an absolute one; another is some node's business."""
    here = Path(path).expanduser()
    return str(here.absolute()) if path and here.exists() else path


def _deployed(model: pb.Model) -> str:
    words = [format_bytes(model.size_bytes)]
    words += [model.architecture] if model.architecture else []
    words += [f"on SSD of {', '.join(model.ssd_nodes)}"] if model.ssd_nodes else []
    return f"deployed {model.spec.name}: {', '.join(words)}"
