"""What all rounds together say: medians, floor ratios, and whether targets are met."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pilotlight.process.bench.targets import Target
from pilotlight.store_node.bench.equality import NEAR_TIE
from pilotlight.store_node.bench.messages import PrefillDone
from pilotlight.store_node.bench.outputs import OutputsOf
from pilotlight.store_node.bench.samples import PHASES, Rival, Round, Start
from pilotlight.store_node.bench.throughput import Race, Throughput
from pilotlight.store_node.protocol import Tier

DRAM_FLOOR_RATIO = 1.5
SSD_FLOOR_RATIO = 1.25
PHASES_ERROR_PERCENT = 5.0
THROUGHPUT_RATIO = 1.0
PREFILL_RATIO = 1.05
FP32_UNEQUAL_PERCENT = 1.0

Row = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """All that a bench has measured; what it was not asked for is empty."""

    sizes_bytes: Mapping[str, int]
    """Of the checkpoints that were started, by name."""
    starts: Mapping[str, Sequence[Round]]
    throughput: Mapping[str, Throughput]
    outputs: Sequence[OutputsOf]

    @property
    def largest(self) -> str:
        """Return the checkpoint that the targets of starts are about."""
        return max(self.starts, key=lambda name: self.sizes_bytes[name])


def p90(values: Sequence[float]) -> float:
    """Return what nine of ten values don't exceed."""
    if len(values) == 1:
        return values[0]
    return statistics.quantiles(values, n=10, method="inclusive")[-1]


def start_rows(measured: Measured) -> list[Row]:
    """Return a row for each checkpoint, tier, and worker idle or not."""
    return [
        _start_row(name, rounds, tier, is_worker_warm=is_worker_warm)
        for name, rounds in measured.starts.items()
        for tier in (Tier.SSD, Tier.DRAM)
        for is_worker_warm in (True, False)
        if _chosen(rounds, tier, is_worker_warm=is_worker_warm)
    ]


def part_rows(measured: Measured) -> list[Row]:
    """Return a row for each checkpoint: its size, and the parts of a start alone."""
    rows: list[Row] = []
    for name, rounds in measured.starts.items():
        parts = [each.parts for each in rounds]
        read_seconds = _median(parts, lambda each: each.read_seconds)
        rows.append(
            {
                "checkpoint": name,
                "size_bytes": measured.sizes_bytes[name],
                "read_bytes_per_second": measured.sizes_bytes[name] / read_seconds,
                "read_seconds": read_seconds,
                "fork_seconds": _median(parts, lambda each: each.fork_seconds),
                "prepare_seconds": _median(parts, lambda each: each.prepare_seconds),
                "bind_seconds": _median(parts, lambda each: each.bind_seconds),
                "prefill_seconds": _median(parts, lambda each: each.prefill_seconds),
                "is_read_direct": all(each.is_read_direct for each in parts),
                "all_tokens_agree": all(each.agrees for each in rounds),
            }
        )
    return rows


def race_rows(measured: Measured) -> list[Row]:
    """Return a row for each model and concurrency."""
    return [
        _race_row(name, [race for race in throughput.races if race.concurrency == n])
        for name, throughput in measured.throughput.items()
        for n in dict.fromkeys(race.concurrency for race in throughput.races)
    ]


def prefill_rows(measured: Measured) -> list[Row]:
    """Return a row for each model and length of a prompt."""
    return [
        _prefill_row(name, n_tokens, done)
        for name, throughput in measured.throughput.items()
        for n_tokens, done in throughput.prefills.items()
    ]


def output_rows(measured: Measured) -> list[Row]:
    """Return a row for each model and dtype."""
    return [_output_row(each) for each in measured.outputs]


def figures(measured: Measured) -> dict[str, float | None]:
    """Return the figures that a release is held to; None where it was not measured."""
    rounds: Sequence[Round] = measured.starts[measured.largest] if measured.starts else ()
    races, prefills = race_rows(measured), prefill_rows(measured)
    every_start = [start for each in measured.starts.values() for r in each for start in r.starts]
    errors = [start.phases_error_percent for start in every_start]
    doubles = [each.compared for each in measured.outputs if each.dtype == "float64"]
    singles = [each.compared for each in measured.outputs if each.dtype == "float32"]
    return {
        "dram_floor_ratio_median": _median_ratio(rounds, Tier.DRAM),
        "ssd_floor_ratio_median": _median_ratio(rounds, Tier.SSD),
        "phases_sum_error_percent_max": max(errors, default=None),
        "phases_sum_error_percent_median": statistics.median(errors) if errors else None,
        "throughput_ratio_to_transformers_cb": min((row["ratio"] for row in races), default=None),
        "prefill_ratio_to_plain_max": max((row["ratio"] for row in prefills), default=None),
        "outputs_unequal_float64": (
            sum(len(each.differing) for each in doubles) if doubles else None
        ),
        "outputs_unequal_fp32_percent": (
            100 * sum(len(c.differing) for c in singles) / sum(c.n_outputs for c in singles)
            if singles
            else None
        ),
        "outputs_unequal_fp32_unexplained": (
            sum(_n_unexplained(each) for each in measured.outputs if each.dtype == "float32")
            if singles
            else None
        ),
    }


_TARGETS: Mapping[str, tuple[float, bool]] = {
    "dram_floor_ratio_median": (DRAM_FLOOR_RATIO, False),
    "ssd_floor_ratio_median": (SSD_FLOOR_RATIO, False),
    "phases_sum_error_percent_max": (PHASES_ERROR_PERCENT, False),
    "throughput_ratio_to_transformers_cb": (THROUGHPUT_RATIO, True),
    "prefill_ratio_to_plain_max": (PREFILL_RATIO, False),
    "outputs_unequal_float64": (0, False),
    "outputs_unequal_fp32_percent": (FP32_UNEQUAL_PERCENT, False),
    "outputs_unequal_fp32_unexplained": (0, False),
}


def targets(found: Mapping[str, float | None]) -> list[Target]:
    """Return the targets of the figures that there are."""
    return [
        Target(figure=name, value=value, target=target, is_least=is_least)
        for name, (target, is_least) in _TARGETS.items()
        if (value := found[name]) is not None
    ]


def _start_row(name: str, rounds: Sequence[Round], tier: Tier, *, is_worker_warm: bool) -> Row:
    chosen = _chosen(rounds, tier, is_worker_warm=is_worker_warm)
    starts = [start for _, start in chosen]
    totals = [start.total_seconds for start in starts]
    row: Row = {
        "checkpoint": name,
        "tier": str(tier),
        "worker": "warm" if is_worker_warm else "forked",
        "first_token_seconds": statistics.median(totals),
        "p90_seconds": p90(totals),
    }
    for phase in PHASES:
        row[f"{phase}_seconds"] = statistics.median(start.phases[phase] for start in starts)
    row |= {
        "phases_error_percent": max(start.phases_error_percent for start in starts),
        "teardown_seconds": _median(starts, lambda start: start.teardown_seconds),
        "node_teardown_seconds": _median(starts, lambda start: start.node_teardown_seconds),
        "floor_seconds": statistics.median(r.parts.floor_seconds(start) for r, start in chosen),
        "floor_ratio": statistics.median(r.floor_ratio(start) for r, start in chosen),
        "floor_ratio_p90": p90([r.floor_ratio(start) for r, start in chosen]),
    }
    rivals = [rival for each in rounds for rival in each.rivals if rival.tier is tier]
    row["imported_seconds"] = _rival_seconds(rivals, is_imported=True)
    row["fresh_seconds"] = _rival_seconds(rivals, is_imported=False)
    return row


def _rival_seconds(rivals: Sequence[Rival], *, is_imported: bool) -> float | None:
    seconds = [rival.seconds for rival in rivals if rival.is_imported is is_imported]
    return statistics.median(seconds) if seconds else None


def _race_row(name: str, races: Sequence[Race]) -> Row:
    ours = _median(races, lambda race: race.ours.tokens_per_second)
    theirs = _median(races, lambda race: race.theirs.tokens_per_second)
    outputs = [
        pair for race in races for pair in zip(race.ours.outputs, race.theirs.outputs, strict=True)
    ]
    return {
        "model": name,
        "concurrency": races[0].concurrency,
        "tokens_per_second": ours,
        "transformers_tokens_per_second": theirs,
        "ratio": ours / theirs,
        "equal_outputs": sum(a == b for a, b in outputs),
        "outputs": len(outputs),
    }


def _prefill_row(name: str, n_tokens: int, done: Sequence[PrefillDone]) -> Row:
    engine = _median(done, lambda each: each.engine_seconds)
    plain = _median(done, lambda each: each.plain_seconds)
    return {
        "model": name,
        "prompt_tokens": n_tokens,
        "engine_seconds": engine,
        "plain_seconds": plain,
        "ratio": engine / plain,
    }


def _output_row(outputs: OutputsOf) -> Row:
    compared = outputs.compared
    margins = [each.margin for each in compared.differing if each.margin is not None]
    return {
        "model": outputs.model,
        "dtype": outputs.dtype,
        "requests": compared.n_requests,
        "outputs": compared.n_outputs,
        "cancelled": compared.n_cancelled,
        "unequal": len(compared.differing),
        "unexplained": _n_unexplained(outputs),
        "largest_margin": max(margins, default=None),
    }


def _n_unexplained(outputs: OutputsOf) -> int:
    return sum(each.margin is None or each.margin > NEAR_TIE for each in outputs.compared.differing)


def _median_ratio(rounds: Sequence[Round], tier: Tier) -> float | None:
    chosen = _chosen(rounds, tier, is_worker_warm=True)
    return statistics.median(each.floor_ratio(start) for each, start in chosen) if chosen else None


def _chosen(
    rounds: Sequence[Round], tier: Tier, *, is_worker_warm: bool
) -> list[tuple[Round, Start]]:
    """Return the starts of one kind, each with its round."""
    return [
        (each, start)
        for each in rounds
        for start in each.starts
        if start.tier is tier and start.is_worker_warm is is_worker_warm
    ]


def _median(values: Sequence[Any], seconds: Callable[[Any], float]) -> float:
    return statistics.median(map(seconds, values))
