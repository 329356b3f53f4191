"""What simulated runs came to, in tables for people and documents for programs."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pilotlight.process import tables
from pilotlight.process.progress import show_steps
from pilotlight.process.quantities import format_seconds

if TYPE_CHECKING:
    from pilotlight.scheduler.simulation.report import Comparison, Interval
    from pilotlight.scheduler.simulation.runs import Job, Run
    from pilotlight.scheduler.simulation.scenarios import Scenario

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
    tables.text("refused"),
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

_SECONDS_PER_HOUR = 3600.0
_QUANTITIES = {"start": "start", "first_token": "first token", "pause": "pause"}

Say = Callable[[str], None]
"""Tells people; where stdout is for programs, not there."""

RECORDED_POLICY = "serverlessllm"
"""What `pilotlight demo --replay` runs, where nobody says another one."""


def show_comparison(runs: Sequence[Run], output: tables.OutputFormat) -> dict[str, Any]:
    """Show what requests waited for under each policy; return the document of all runs."""
    from pilotlight.scheduler.simulation.report import compare

    compared = compare([run.result for run in runs])
    _show_policies(compared, output)
    return _document_of(runs, compared)


def _show_policies(compared: Sequence[Comparison], output: tables.OutputFormat) -> None:
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


def show_validation(
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
        policy=policy or RECORDED_POLICY,
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


def show_bound(jobs: Sequence[Job], runs: Sequence[Run], *, say: Say) -> dict[str, Any]:
    """Show the bound on the mean first token, and each policy's share of the headroom closed."""
    from pilotlight.scheduler.simulation.bound import headroom_closed
    from pilotlight.scheduler.simulation.report import compare
    from pilotlight.scheduler.simulation.report.comparison import interval_of
    from pilotlight.scheduler.simulation.runs import bound_of

    unserved = sum(run.result.requests - run.result.served for run in runs)
    if unserved:
        # Whoever gave up waited less than his place would have made him.
        say(f"\nno bound: {unserved:,d} requests were not served")
        return {}
    compared = compare([run.result for run in runs])
    seeds = list(dict.fromkeys(job.seed for job in jobs))
    with show_steps("bounding, seeds", len(seeds), stream=sys.stderr) as steps:
        bounds: dict[int, float] = {}
        for seed in seeds:
            bounds[seed] = bound_of(jobs[0].scenario, seed, traces=jobs[0].traces).mean
            steps.advance(1)
    least = interval_of(list(bounds.values()))
    baseline = compared[0]
    closed = {
        each.policy: headroom_closed(
            baseline=baseline.figures["first_token_mean_seconds"].mean,
            ours=each.figures["first_token_mean_seconds"].mean,
            bound=least.mean,
        )
        for each in compared
    }
    say(f"\nno policy's mean first token is below {_in_words(least, format_seconds)}")
    for each in compared[1:]:
        share = closed[each.policy]
        say(f"{each.policy} closes {100.0 * share:.0f} % of the way there from {baseline.policy}")
    return {
        "first_token_mean_seconds": {"mean": least.mean, "low": least.low, "high": least.high},
        "headroom_closed": closed,
    }


def show_published(
    runs: Sequence[Run], file: Path, scenario: str, *, say: Say
) -> list[dict[str, Any]]:
    """Show how many published percentiles lie within the band of the runs, and which do not."""
    from pilotlight.scheduler.simulation.report.published import beside_published

    results = [run.result for run in runs]
    found = beside_published(results, file, panel=_panel_of(scenario))
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
    table = StringIO()
    empty = "nothing is published of them"
    tables.write_rows(rows, PUBLISHED_COLUMNS, format="table", empty=empty, stream=table)
    say(f"\n{table.getvalue().rstrip()}")
    return rows


def require_published(file: Path, scenario: str) -> None:
    """Refuse a table without the scenario's panel, before minutes of simulating."""
    from pilotlight.scheduler.simulation.report.published import beside_published

    beside_published([], file, panel=_panel_of(scenario))


def _panel_of(scenario: str) -> str:
    """Return which panel a scenario is; those of the paper's figures are named after them."""
    return scenario.removeprefix("paper-")


def show_growth(small: Run, large: Run, *, n_nodes: tuple[int, int], say: Say) -> dict[str, Any]:
    """Show how much more a request costs in the larger one of two runs."""
    each = [run.wall_seconds / max(run.result.requests, 1) for run in (small, large)]
    cost = [format_seconds(seconds) for seconds in each]
    say(f"\na request costs {cost[0]} in {small.result.scenario}, {cost[1]} here")
    return {"growth_{}_to_{}_nodes".format(*n_nodes): each[1] / each[0]}


def _document_of(runs: Sequence[Run], compared: Sequence[Comparison]) -> dict[str, Any]:
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
