"""`pilotlight bench start`."""

from __future__ import annotations

import os
from pathlib import Path

import click

PARTS = ("starts", "throughput", "equality")

MOST_THREADS = 4 * (os.cpu_count() or 1)
"""More would only wait for each other."""


@click.command()
@click.option(
    "--json",
    "json_file",
    type=click.Path(path_type=Path),
    default=None,
    help="Write the figures there, and all that they come from.",
)
@click.option(
    "--repetitions",
    type=click.IntRange(1),
    default=20,
    show_default=True,
    help="Of every start.",
)
@click.option("--short", is_flag=True, help="One small model, once, in about a minute.")
@click.option(
    "--only",
    "parts",
    type=click.Choice(PARTS),
    multiple=True,
    help="Measure only that; may be repeated.",
)
@click.option(
    "--checkpoint",
    "checkpoints",
    type=click.Path(path_type=Path),
    multiple=True,
    metavar="DIR",
    help="Measure this checkpoint instead of made ones; may be repeated.",
)
@click.option(
    "--threads",
    type=click.IntRange(1, MOST_THREADS),
    default=None,
    help="For whatever computes, ours or not.  [default: half of the processors]",
)
def start(
    json_file: Path | None,
    repetitions: int,
    short: bool,
    parts: tuple[str, ...],
    checkpoints: tuple[Path, ...],
    threads: int | None,
) -> None:
    """Measure cold starts, tokens a second, and that outputs are equal.

    starts: three models are started through store nodes of their own, from SSD and
    from DRAM, with a worker idle or not: each phase, the first token, the teardown.
    Beside them, in the same minutes, the parts alone (reading the files, a worker,
    bind, prefill), which are the floor of a start, and `from_pretrained`, in a new
    process and in one whose imports are done.

    throughput: tokens a second of 1, 4 and 12 requests at once, beside the
    continuous batching of transformers; prompts beside a plain pass.

    equality: hundreds of requests to each of eight kinds of models, together,
    cancelled and resumed at random, beside the same request alone.

    All of it takes some ten minutes, and the extra `node`. The models have random
    weights and are kept in $PILOTLIGHT_HOME/bench.

    \b
    pilotlight bench start --short
    pilotlight bench start --json figures.json
    pilotlight bench start --only starts --checkpoint ~/models/opt-125m
    """
    from pilotlight.process.bench.machine import default_threads
    from pilotlight.process.home import home_directory
    from pilotlight.store_node.bench.bench import Plan, run_bench

    if checkpoints and set(parts) == {"equality"}:
        raise click.UsageError(
            "--checkpoint is for starts and throughput: equality makes models of its own"
        )
    run_bench(
        Plan(
            home=home_directory(os.environ),
            parts=parts or PARTS,
            own=checkpoints,
            repetitions=1 if short else repetitions,
            threads=threads or default_threads(),
            is_short=short,
            json_file=json_file,
        )
    )
