"""`pilotlight simulate`."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pilotlight.process import tables
from pilotlight.process.commands import output_option
from pilotlight.process.progress import show_steps
from pilotlight.scheduler.cli import simulated_runs

if TYPE_CHECKING:
    from pilotlight.scheduler.simulation.runs import Job, Run
    from pilotlight.scheduler.simulation.scenarios import Scenario

SCENARIO_COLUMNS = (tables.text("name"), tables.text("title"), tables.text("needs"))


@click.command()
@click.argument("scenario", required=False)
@click.option(
    "--policy",
    "policies",
    default=None,
    help="Which policies, as A,B.  [default: those that the scenario names]",
)
@click.option(
    "--seeds",
    type=click.IntRange(1),
    default=None,
    help="Runs of each policy, each with requests of its own.  [default: as the scenario says]",
)
@click.option("--first-seed", type=click.IntRange(0), default=1, show_default=True)
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
    help="Write curves and a timeline of each policy (SVG) there; needs the extra `plots`.",
)
@click.option(
    "--processes",
    type=click.IntRange(1),
    default=None,
    help="Runs at once.  [default: as many as there are processors]",
)
@click.option(
    "--traces",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    default=None,
    envvar="PILOTLIGHT_TRACES",
    show_envvar=True,
    help="The folder of published traces, for scenarios that need them.",
)
@click.option(
    "--set",
    "changes",
    multiple=True,
    metavar="KEY=VALUE",
    help="Another value for a place in the scenario; may be repeated.",
)
@click.option(
    "--against",
    type=click.Path(path_type=Path, dir_okay=False),
    default=None,
    help="A table of published percentiles: how many lie within the runs' 5 to 95 % band.",
)
@click.option(
    "--growth-from",
    default=None,
    metavar="SCENARIO",
    help="A smaller scenario to run, too: how the time that a request costs grows from there."
    "  [default: as the scenario says]",
)
@click.option(
    "--validate",
    "real",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    multiple=True,
    metavar="FOLDER",
    help="Compare with runs that `pilotlight demo --replay` recorded, all of the same requests;"
    " to be repeated for each.",
)
@click.option(
    "--bound",
    is_flag=True,
    help="Show what no policy can beat, too, and how much of the way from the first policy"
    " to there the others go.",
)
@output_option
def simulate(
    scenario: str | None,
    policies: str | None,
    seeds: int | None,
    first_seed: int,
    json_file: Path | None,
    plot_directory: Path | None,
    processes: int | None,
    traces: Path | None,
    changes: tuple[str, ...],
    against: Path | None,
    growth_from: str | None,
    bound: bool,
    real: tuple[Path, ...],
    output: tables.OutputFormat,
) -> None:
    """Run policies on a simulated cluster, and compare what requests wait for.

    SCENARIO is the name of one that comes with Pilotlight, or a YAML file; without
    it, they are listed. The scheduler's own core and the nodes' own core decide, as
    they do in a cluster; only time, bytes and tokens are simulated. Equal seeds give
    equal runs, to the last byte.

    \b
    pilotlight simulate
    pilotlight simulate quick
    pilotlight simulate quick --policy random,serverlessllm --seeds 10 --plot .
    pilotlight simulate quick --bound
    pilotlight simulate my-demo.yaml --validate run-1 --validate run-2
    pilotlight simulate my-cluster.yaml --json figures.json
    pilotlight simulate quick --set cluster.nodes[0].count=4 --set models[0].count=8
    pilotlight simulate thousand-nodes --growth-from hundred-nodes
    """
    if scenario is None:
        tables.write_rows(_shipped(), SCENARIO_COLUMNS, format=output, empty="none is shipped")
        return
    from pilotlight.process.bench.documents import require_writable, write_document
    from pilotlight.scheduler.simulation.report.plots import draw, require_plots
    from pilotlight.scheduler.simulation.runs import Job
    from pilotlight.scheduler.simulation.scenarios import load_scenario

    if json_file is not None:
        require_writable(json_file)
    if plot_directory is not None:
        require_plots()
        plot_directory.mkdir(parents=True, exist_ok=True)
    found = load_scenario(scenario, changes=_read_changes(changes))
    n_seeds = seeds or found.seeds
    growth_from = growth_from or found.growth_from
    smaller = load_scenario(growth_from) if growth_from else None
    if against is not None:
        simulated_runs.require_published(against, found.name)
    if real:
        document = simulated_runs.show_validation(found, real, policies, n_seeds, first_seed)
    else:
        chosen = policies.split(",") if policies else found.policies
        names = dict.fromkeys(name.strip() for name in chosen)
        jobs = [
            Job(scenario=found, policy=name, seed=first_seed + row, traces=traces)
            for name in names
            for row in range(n_seeds)
        ]
        runs = _run(jobs, n_processes=processes or os.cpu_count() or 1)
        document = simulated_runs.show_comparison(runs, output)
        say = partial(click.echo, err=output in ("json", "yaml"))
        document |= _show_more(jobs, runs, bound=bound, against=against, smaller=smaller, say=say)
        if plot_directory is not None:
            for file in draw([run.result for run in runs], plot_directory):
                click.echo(f"wrote {file}", err=True)
    if json_file is not None:
        write_document(document, json_file)


def _show_more(
    jobs: Sequence[Job],
    runs: Sequence[Run],
    *,
    bound: bool,
    against: Path | None,
    smaller: Scenario | None,
    say: simulated_runs.Say,
) -> dict[str, Any]:
    """Show what was asked for beside the comparison; return what a document has of it."""
    more: dict[str, Any] = {}
    scenario = jobs[0].scenario
    if bound:
        more["bound"] = simulated_runs.show_bound(jobs, runs, say=say)
    if smaller is not None:
        # Alone, as the large one ran.
        more |= simulated_runs.show_growth(
            _run([replace(jobs[0], scenario=smaller)], n_processes=1)[0],
            runs[0],
            n_nodes=(smaller.n_nodes, scenario.n_nodes),
            say=say,
        )
    if against is not None:
        more["published"] = simulated_runs.show_published(runs, against, scenario.name, say=say)
    return more


def _read_changes(changes: Sequence[str]) -> dict[str, object]:
    from pilotlight.scheduler.simulation.scenarios.documents import parse_value

    found: dict[str, object] = {}
    for change in changes:
        key, equals, value = change.partition("=")
        if not key or not equals:
            raise click.BadParameter(f"{change!r} is not KEY=VALUE", param_hint="--set")
        found[key] = parse_value(value, source=f"--set {key}")
    return found


def _shipped() -> list[dict[str, Any]]:
    from pilotlight.scheduler.simulation.scenarios import load_scenario, shipped_names

    return [
        {
            "name": each.name,
            "title": each.title,
            "needs": "traces" if each.needs_traces else "",
        }
        for each in map(load_scenario, shipped_names())
    ]


def _run(jobs: Sequence[Job], *, n_processes: int) -> list[Run]:
    from pilotlight.scheduler.simulation.runs import do_jobs

    with show_steps("simulating", len(jobs), stream=sys.stderr) as steps:

        def progress(n_runs: int, n_requests: int) -> None:
            steps.begin(f"simulating, {n_requests:,d} requests so far, runs")
            steps.update(n_runs)

        return do_jobs(jobs, n_processes=n_processes, progress=progress)
