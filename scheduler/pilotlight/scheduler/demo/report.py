"""The demo's tables and figures."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from pilotlight.scheduler.demo.comparison import Round
from pilotlight.scheduler.protocol import control_plane_pb2 as pb

_PHASES = ("queue", "transfer", "worker", "bind", "prefill")


def starts_table(starts: Sequence[pb.Start]) -> Table:
    """Return every start with its phases, estimated and measured."""
    table = Table(title="Starts: seconds by phase, estimated→measured", box=SIMPLE_HEAD)
    for column in ("model", "node", "tier"):
        table.add_column(column, no_wrap=True)
    for column in (*_PHASES, "ready", "1st token"):
        table.add_column(column, justify="right", no_wrap=True)
    for start in starts:
        phases = [_pair(start, phase) for phase in _PHASES]
        ready = f"{_ready_seconds(start.estimated):.2f}→{start.ready_seconds:.2f}"
        first = f"{start.first_token_seconds:.2f}" if start.HasField("first_token_seconds") else ""
        tier = start.error or start.tier
        table.add_row(start.model, start.node_id, tier, *phases, ready, first)
    return table


def comparison_table(rounds: Sequence[Round]) -> Table:
    """Return the medians of each checkpoint's rounds."""
    table = Table(
        title="First token, medians in seconds; files dropped from the page cache",
        box=SIMPLE_HEAD,
    )
    table.add_column("checkpoint")
    for column in (
        "MB",
        "(a) SSD",
        "(b) DRAM",
        "(c) fresh",
        "(d) imported",
        "(c)/(a)",
        "(d)/(a)",
        "(c)/(b)",
    ):
        table.add_column(column, justify="right", no_wrap=True)
    for model in dict.fromkeys(r.model for r in rounds):
        own = [r for r in rounds if r.model == model]
        table.add_row(
            model,
            f"{own[0].size_bytes / 1e6:.0f}",
            f"{_median(own, lambda r: r.ssd_seconds):.3f}",
            f"{_median(own, lambda r: r.dram_seconds):.3f}",
            f"{_median(own, lambda r: r.fresh_seconds):.2f}",
            f"{_median(own, lambda r: r.imported_seconds):.3f}",
            f"{_median(own, _cold_speedup):.1f}",
            f"{_median(own, _imported_speedup):.2f}",
            f"{_median(own, _dram_speedup):.1f}",
        )
    return table


def figures(
    starts: Sequence[pb.Start], rounds: Sequence[Round], *, leftover_processes: int
) -> dict[str, Any]:
    """Return the demo's figures, with the starts and rounds beside them."""
    good = [start for start in starts if not start.error]
    return {
        "figures": {
            "cold_speedup_median": round(_median(rounds, _cold_speedup), 2),
            "cold_speedup_no_imports": round(_median(rounds, _imported_speedup), 3),
            "dram_speedup_median": round(_median(rounds, _dram_speedup), 2),
            "starts_from_ssd": sum(start.tier == "ssd" for start in good),
            "starts_from_dram": sum(start.tier == "dram" for start in good),
            "leftover_processes": leftover_processes,
        },
        "starts": [_start(start) for start in starts],
        "rounds": [asdict(r) for r in rounds],
    }


def _cold_speedup(r: Round) -> float:
    return r.fresh_seconds / r.ssd_seconds


def _imported_speedup(r: Round) -> float:
    return r.imported_seconds / r.ssd_seconds


def _dram_speedup(r: Round) -> float:
    return r.fresh_seconds / r.dram_seconds


def _median(rounds: Sequence[Round], value: Callable[[Round], float]) -> float:
    return statistics.median(map(value, rounds))


def _pair(start: pb.Start, phase: str) -> str:
    name = f"{phase}_seconds"
    is_unknown = phase == "prefill" and not start.measured.HasField("prefill_seconds")
    if start.error or is_unknown:
        return ""
    return f"{getattr(start.estimated, name):.2f}→{getattr(start.measured, name):.2f}"


def _ready_seconds(phases: pb.StartPhases) -> float:
    return (
        phases.queue_seconds + phases.transfer_seconds + phases.worker_seconds + phases.bind_seconds
    )


def _start(start: pb.Start) -> dict[str, Any]:
    from google.protobuf.json_format import MessageToDict

    return MessageToDict(
        start, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
