"""`pilotlight pack`."""

from __future__ import annotations

from pathlib import Path

import click

from pilotlight.native_loader.commands.reporting import PATH, one_line_errors, progress_shown
from pilotlight.native_loader.packing.pack_plans import PackPlan


def _read_plan(context: click.Context, parameter: click.Parameter, text: str) -> PackPlan:
    try:
        return PackPlan.parse(text)
    except ValueError as exc:
        raise click.BadParameter(str(exc)) from exc


@click.command()
@click.argument("source", type=PATH)
@click.argument("destination", type=PATH)
@click.option(
    "--plan",
    default="one",
    show_default=True,
    metavar="one|tensor-parallel=N|layers=N",
    callback=_read_plan,
    help="How to cut it into partitions, one for each device.",
)
@click.option("--force", is_flag=True, help="Replace DESTINATION if it is a packed checkpoint.")
def pack(source: Path, destination: Path, plan: PackPlan, force: bool) -> None:
    """Write a packed copy of the checkpoint SOURCE to DESTINATION.

    A packed checkpoint has its tensors aligned and in the order of execution,
    checksums for every chunk, and an id of its content. Other tools read it as the
    safetensors checkpoint that it is. DESTINATION appears whole or not at all.

    SOURCE is a safetensors checkpoint or a PEFT adapter, packed or not; or PyTorch's
    pickled weights (.bin, .pt, .pth); or what ServerlessLLM saved (tensor.data_0 and
    tensor_index.json). Pickles are opened here and nowhere else: for weights only, by
    a process of limited means, and what holds anything but tensors is refused.

    \b
    The plan is one of
      one                one partition with everything
      tensor-parallel=N  N partitions, each with a slice of every matrix
      layers=N           N partitions of consecutive layers

    \b
    Example:
      pilotlight pack ~/models/llama-8b ~/models/llama-8b-packed
      pilotlight pack --plan tensor-parallel=4 ~/models/llama-8b ~/models/llama-8b-by-4
      pilotlight verify ~/models/llama-8b-packed
    """
    from pilotlight.native_loader.packing.pack import pack as write_packed
    from pilotlight.native_loader.packing.source_kinds import open_source
    from pilotlight.process.quantities import format_bytes

    with one_line_errors():
        opened = open_source(source)
        total_bytes = sum(tensor.size_bytes for tensor in opened.tensors.values())
        with progress_shown("packing", total_bytes) as progress:
            packed = write_packed(opened, destination, plan=plan, replace=force, progress=progress)
    n_tensors = len(packed.sliced or packed.tensors)
    partitions = f" in {plan.n_partitions} partitions" if plan.n_partitions > 1 else ""
    click.echo(
        f"{destination}: {format_bytes(packed.size_bytes)}{partitions}, {n_tensors} tensors,"
        f" content id {packed.content_id}"
    )
