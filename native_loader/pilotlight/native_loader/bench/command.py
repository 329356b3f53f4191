"""`pilotlight bench load`."""

from __future__ import annotations

import os
from pathlib import Path

import click

PARTS = ("cold", "hot", "dram", "adapters", "slices", "gpu", "ablation")
USUAL_PARTS = PARTS[:-1]

RUNS = 7
SHORT_RUNS = 1


@click.command()
@click.option(
    "--json",
    "json_file",
    type=click.Path(path_type=Path),
    default=None,
    help="Write the figures there, and all that they come from.",
)
@click.option(
    "--plot",
    "plot_directory",
    type=click.Path(path_type=Path, file_okay=False),
    default=None,
    help="Write charts (SVG) there.",
)
@click.option(
    "--runs",
    type=click.IntRange(1),
    default=None,
    help="Of every loader on every layout.  [default: 7; with --short 1]",
)
@click.option("--short", is_flag=True, help="One small checkpoint, in about a minute.")
@click.option(
    "--only",
    "parts",
    type=click.Choice(PARTS),
    multiple=True,
    help="Measure only that; may be repeated.",
)
@click.option(
    "--ablation", is_flag=True, help="Show what each technique of a loader is worth, too."
)
@click.option(
    "--keep/--no-keep",
    default=True,
    show_default=True,
    help="Keep checkpoints and the others' environment for the next time.",
)
def load(
    json_file: Path | None,
    plot_directory: Path | None,
    runs: int | None,
    short: bool,
    parts: tuple[str, ...],
    ablation: bool,
    keep: bool,
) -> None:
    """Measure loads beside the disk's limit and beside other loaders.

    cold: checkpoints of 2.6 GB and 250 MB, as one file, sharded and packed, from the
    disk: proven by the bytes that each process read from there. Beside them, in the
    same minutes, an independent direct reader of the same bytes, which is the limit,
    and safetensors, torch.load, transformers, Run:ai's streamer, fastsafetensors and
    tensorizer, installed in an environment of their own. Every load has a process of
    its own; every page is touched, every tensor compared.

    hot: the same from the page cache.

    dram: a checkpoint in another process's pool, attached.

    adapters: 100 LoRA adapters of 10 MB, at once and one after another.

    slices: what is read from the disk for tensor parallelism of 1, 2, 4 and 8.

    gpu: where there is one, from the disk and from a pool onto it, beside the limits
    of disk and link.

    ablation: what reading in bulk, past the page cache, by several threads, into
    memory that is there, and copying meanwhile are worth, one after another.

    All of it takes half an hour, 20 GB of disk in $PILOTLIGHT_HOME/bench, 8 GB of
    memory, a C compiler, and the extra `torch`.

    \b
    pilotlight bench load --short
    pilotlight bench load --json figures.json --plot charts
    pilotlight bench load --only cold --runs 3
    """
    from pilotlight.native_loader.bench.bench import Plan, run_bench
    from pilotlight.process.home import home_directory

    chosen = parts or USUAL_PARTS
    if ablation and "ablation" not in chosen:
        chosen = (*chosen, "ablation")
    run_bench(
        Plan(
            home=home_directory(os.environ),
            parts=chosen,
            n_rounds=runs or (SHORT_RUNS if short else RUNS),
            is_short=short,
            keep=keep,
            json_file=json_file,
            plot_directory=plot_directory,
        )
    )
