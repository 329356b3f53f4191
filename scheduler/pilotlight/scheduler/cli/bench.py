"""The verb bench; its commands are entry points of group `pilotlight.bench`."""

from __future__ import annotations

import click

from pilotlight.scheduler.cli.verbs import BenchGroup


@click.group(
    cls=BenchGroup,
    epilog="\b\n"
    "Give a machine that has nothing else to do:\n"
    "  pilotlight bench start --short               everything once, in about a minute\n"
    "  pilotlight bench start --json figures.json   with repetitions, and figures for programs\n"
    "  pilotlight bench load --short                loads beside the disk and other loaders\n"
    "pilotlight bench COMMAND --help tells more of each.",
)
def bench() -> None:
    """Measure Pilotlight on this machine, beside what it could do at best.

    Every command makes the models that it needs, runs processes of its own, leaves
    none of them, and prints tables; --json writes the figures for programs. What
    runs beside it on the machine is in its figures.
    """
