"""`pilotlight simulate`."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pilotlight.process import tables
from pilotlight.process.commands import output_option
from pilotlight.process.progress import show_steps
from pilotlight.process.quantities import format_seconds

if TYPE_CHECKING:
    from pilotlight.scheduler.simulation.report import Comparison, Interval, RunResult
    from pilotlight.scheduler.simulation.runs import Job, Run
    from pilotlight.scheduler.simulation.scenarios import Scenario

SCENARIO_COLUMNS = (tables.text("name"), tables.text("title"), tables.text("needs"))
TIME_COLUMNS = (
    tables.text("policy"),
    tables.text("quantity"),
    tables.text("mean"),
    tables.text("p50"),
    tables.text("p90", wide_only=True),
    tables.text("p95"),
    tables.text("p99"),
)
COUNT_COLUMNS = (
    tables.text("policy"),
    tables.text("requests"),
    tables.text("warm"),
    tables.text("from_device", "FROM DEVICE", wide_only=True),
    tables.text("from_dram", "FROM DRAM"),
    tables.text("from_ssd", "FROM SSD"),
    tables.text("timed_out", "TIMED OUT"),
    tables.text("refused", wide_only=True),
    tables.text("evictions"),
    tables.text("migrations", wide_only=True),
    tables.text("preemptions", wide_only=True),
    tables.text("device_hours", "DEVICE HOURS"),
    tables.text("loading"),
)
PUBLISHED_COLUMNS = (
    tables.text("policy"),
    tables.number("inside"),
    tables.number("of"),
    tables.text("missed", "PUBLISHED SECONDS THAT THE RUNS' BAND MISSES"),
)

VALIDATION_COLUMNS = (
    tables.text("quantity"),
    tables.text("real"),
    tables.text("simulated"),
    tables.text("error_over_spread", "ERROR BY SPREAD"),
)

_RECORDED_POLICY = "serverlessllm"
"""What `pilotlight demo --replay` runs, where nobody says another one."""
_SECONDS_PER_HOUR = 3600.0
_QUANTITIES = {"start": "start", "first_token": "first token", "pause": "pause"}


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
    from pilotlight.scheduler.simulation.report import compare
    from pilotlight.scheduler.simulation.report.plots import draw, require_plots
    from pilotlight.scheduler.simulation.runs import Job
    from pilotlight.scheduler.simulation.scenarios import load_scenario

    if json_file is not None:
        require_writable(json_file)
    if plot_directory is not None:
        require_plots()
        plot_directory.mkdir(parents=True, exist_ok=True)
    found = load_scenario(scenario, changes=_read_changes(changes))
    growth_from = growth_from or found.growth_from
    smaller = load_scenario(growth_from) if growth_from else None
    if real:
        document = _validate(found, real, policies, seeds or found.seeds, first_seed)
        if json_file is not None:
            write_document(document, json_file)
        return
    names = policies.split(",") if policies else list(found.policies)
    jobs = [
        Job(scenario=found, policy=name.strip(), seed=first_seed + row, traces=traces)
        for name in names
        for row in range(seeds or found.seeds)
    ]
    n_processes = processes or os.cpu_count() or 1
    runs = _run(jobs, n_processes=n_processes)
    results = [run.result for run in runs]
    compared = compare(results)
    _show(compared, output)
    document = _document(runs, compared)
    if bound:
        document["bound"] = _show_bound(jobs, results, compared)
    if smaller is not None:
        # Alone, as the large one ran.
        small = _run([replace(jobs[0], scenario=smaller)], n_processes=1)[0]
        document |= _growth(small, runs[0], (smaller.n_nodes, found.n_nodes))
        click.echo(f"a request costs {_cost(small)} in {smaller.name}, {_cost(runs[0])} here")
    if against is not None:
        document["published"] = _show_published(results, against, found.name)
    if json_file is not None:
        write_document(document, json_file)
    if plot_directory is not None:
        for file in draw(results, plot_directory):
            click.echo(f"wrote {file}", err=True)


def _validate(
    scenario: Scenario,
    folders: Sequence[Path],
    policy: str | None,
    n_seeds: int,
    first_seed: int,
) -> dict[str, Any]:
    """Show how far the simulation is from what was recorded, in spreads between the runs."""
    from pilotlight.scheduler.simulation.validation import read_run, validate

    found = validate(
        scenario,
        [read_run(folder) for folder in folders],
        policy=policy or _RECORDED_POLICY,
        seeds=range(first_seed, first_seed + n_seeds),
    )
    rows = [
        {
            "quantity": f"first token, {each.name}",
            "real": ", ".join(map(format_seconds, each.real)),
            "simulated": format_seconds(each.simulated),
            "error_over_spread": f"{each.error_over_spread:.2f}",
        }
        for each in found.percentiles
    ]
    tables.write_rows(rows, VALIDATION_COLUMNS, format="table", empty="")
    click.echo(
        f"{100.0 * found.same_tier_share:.0f} % of starts from the same tier"
        f" ({100.0 * found.same_tier_share_of_real:.0f} % between real runs),"
        f" of {', '.join(map(str, found.n_starts))} starts"
    )
    document: dict[str, Any] = {
        f"{each.name}_error_over_spread": each.error_over_spread for each in found.percentiles
    }
    return document | {
        "same_tier_percent": 100.0 * found.same_tier_share,
        "same_tier_percent_of_real": 100.0 * found.same_tier_share_of_real,
        "real_starts": list(found.n_starts),
        "percentiles": rows,
    }


def _read_changes(changes: Sequence[str]) -> dict[str, object]:
    import yaml

    found: dict[str, object] = {}
    for change in changes:
        key, equals, value = change.partition("=")
        if not key or not equals:
            raise click.BadParameter(f"{change!r} is not KEY=VALUE", param_hint="--set")
        try:
            found[key] = yaml.safe_load(value)
        except yaml.YAMLError as exc:
            raise click.BadParameter(f"{value!r} is no value", param_hint="--set") from exc
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


def _show(compared: Sequence[Comparison], output: tables.OutputFormat) -> None:
    if output in ("json", "yaml"):
        rows = [
            {"policy": each.policy, "seeds": each.seeds} | _plain(each.figures) for each in compared
        ]
        tables.write_rows(rows, (), format=output, empty="")
        return
    times = [
        _times(each, name, shown)
        for each in compared
        for name, shown in _QUANTITIES.items()
        if name != "pause" or each.figures["pause_mean_seconds"].mean > 0.0
    ]
    tables.write_rows(times, TIME_COLUMNS, format=output, empty="")
    click.echo()
    tables.write_rows([_counts(each) for each in compared], COUNT_COLUMNS, format=output, empty="")


def _plain(figures: Any) -> dict[str, Any]:
    return {
        name: {"mean": each.mean, "low": each.low, "high": each.high}
        for name, each in figures.items()
    }


def _times(compared: Comparison, name: str, shown: str) -> dict[str, Any]:
    found = {"policy": compared.policy, "quantity": shown}
    for column in ("mean", "p50", "p90", "p95", "p99"):
        found[column] = _in_words(compared.figures[f"{name}_{column}_seconds"], format_seconds)
    return found


def _counts(compared: Comparison) -> dict[str, Any]:
    figures = compared.figures

    def count(name: str) -> str:
        return _in_words(figures[name], lambda n: f"{n:,.0f}") if name in figures else "0"

    device_seconds = figures["device_seconds"].mean
    loading = figures["loading_device_seconds"].mean
    return {
        "policy": compared.policy,
        "requests": f"{figures['requests'].mean:,.0f}",
        "warm": count("warm_requests"),
        "from_device": count("starts_from_device"),
        "from_dram": count("starts_from_dram"),
        "from_ssd": count("starts_from_ssd"),
        "timed_out": count("timed_out"),
        "refused": count("refused"),
        "evictions": count("evictions"),
        "migrations": count("migrations"),
        "preemptions": count("preemptions"),
        "device_hours": f"{device_seconds / _SECONDS_PER_HOUR:,.2f}",
        "loading": f"{100.0 * loading / device_seconds:.0f} %" if device_seconds else "-",
    }


def _in_words(interval: Interval, show: Callable[[float], str]) -> str:
    """Return a mean, and how far its confidence interval reaches to each side."""
    if not math.isfinite(interval.mean):
        return "never"
    reach = interval.high - interval.mean
    return show(interval.mean) + (f" ± {show(reach)}" if math.isfinite(reach) else "")


def _cost(run: Run) -> str:
    return format_seconds(run.wall_seconds / max(run.result.requests, 1))


def _growth(small: Run, large: Run, n_nodes: tuple[int, int]) -> dict[str, Any]:
    """Return how much more a request costs in the larger one of two runs."""
    each = [run.wall_seconds / max(run.result.requests, 1) for run in (small, large)]
    return {"growth_{}_to_{}_nodes".format(*n_nodes): each[1] / each[0]}


def _show_published(
    results: Sequence[RunResult], file: Path, scenario: str
) -> list[dict[str, Any]]:
    from pilotlight.scheduler.simulation.report.published import beside_published

    # The panels of the paper's figures are scenarios of that name.
    found = beside_published(results, file, panel=scenario.removeprefix("paper-"))
    rows: list[dict[str, Any]] = []
    for policy in dict.fromkeys(each.policy for each in found):
        of_policy = [each for each in found if each.policy == policy]
        missed = [each for each in of_policy if not each.is_inside]
        rows.append(
            {
                "policy": policy,
                "inside": len(of_policy) - len(missed),
                "of": len(of_policy),
                "missed": ", ".join(
                    f"p{each.percentile:g} {each.seconds:g} ({each.low:.2f} to {each.high:.2f})"
                    for each in missed
                ),
            }
        )
    click.echo()
    tables.write_rows(rows, PUBLISHED_COLUMNS, format="table", empty="nothing is published of them")
    return rows


def _show_bound(
    jobs: Sequence[Job], results: Sequence[RunResult], compared: Sequence[Comparison]
) -> dict[str, Any]:
    """Show the bound on the mean first token, and each policy's share of the headroom closed."""
    from pilotlight.scheduler.simulation.bound import headroom_closed
    from pilotlight.scheduler.simulation.report.comparison import interval_of
    from pilotlight.scheduler.simulation.runs import bound_of

    unserved = sum(result.requests - result.served for result in results)
    if unserved:
        # Whoever gave up waited less than his place would have made him.
        click.echo(f"\nno bound: {unserved:,d} requests were not served", err=True)
        return {}
    seeds = list(dict.fromkeys(job.seed for job in jobs))
    with show_steps("bounding, seeds", len(seeds), stream=sys.stderr) as steps:
        bounds: dict[int, float] = {}
        for seed in seeds:
            bounds[seed] = bound_of(jobs[0].scenario, seed, traces=jobs[0].traces).mean
            steps.advance(1)
    least = interval_of(list(bounds.values()))
    baseline = compared[0].figures["first_token_mean_seconds"].mean
    closed = {
        each.policy: headroom_closed(
            baseline=baseline,
            ours=each.figures["first_token_mean_seconds"].mean,
            bound=least.mean,
        )
        for each in compared
    }
    click.echo()
    click.echo(f"no policy's mean first token is below {_in_words(least, format_seconds)}")
    for each in compared[1:]:
        share = closed[each.policy]
        click.echo(
            f"{each.policy} closes {100.0 * share:.0f} % of the way there from {compared[0].policy}"
        )
    return {
        "first_token_mean_seconds": {"mean": least.mean, "low": least.low, "high": least.high},
        "headroom_closed": closed,
    }


def _document(runs: Sequence[Run], compared: Sequence[Comparison]) -> dict[str, Any]:
    import msgspec

    results = [run.result for run in runs]
    starts = [sum(result.starts.values()) for result in results]
    return {
        # What differs from one time to the next is here and nowhere else.
        "wall_seconds": max(run.wall_seconds for run in runs),
        "peak_memory_gib": max(run.peak_memory_bytes for run in runs) / 2**30,
        "requests": results[0].requests,
        "cold_starts": starts[0],
        "comparison": msgspec.to_builtins(compared),
        "runs": msgspec.to_builtins(results),
    }
