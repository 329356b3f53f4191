"""What `pilotlight bench load` prints, and what it writes for programs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import click
import msgspec

from pilotlight.native_loader.bench import figures, rows
from pilotlight.native_loader.bench.rows import Row
from pilotlight.native_loader.bench.runs import Measured
from pilotlight.process import tables
from pilotlight.process.bench.targets import TARGET_COLUMNS, target_row

LABELS = {
    "pool": "pilotlight, pool",
    "fresh": "pilotlight",
    "batch": "pilotlight, pool, batch",
    "fresh-batch": "pilotlight, batch",
    "one-by-one": "pilotlight, pool, one by one",
    "gpu": "pilotlight, staged",
    "fresh-gpu": "pilotlight",
    "pool-to-gpu": "pilotlight, from a pool",
    "attach": "pilotlight, attached",
}
LOAD_COLUMNS = (
    tables.text("checkpoint"),
    tables.text("layout"),
    tables.text("label", "LOADER"),
    tables.seconds("load_seconds"),
    tables.seconds("total_seconds", "AND TOUCH"),
    tables.rate("bytes_per_second", "SPEED"),
    tables.number("load_of_limit", "LOAD TO LIMIT"),
    tables.number("of_limit", "TO LIMIT"),
    tables.size("bytes_read", "FROM DISK"),
    tables.seconds("cpu_seconds"),
    tables.size("peak_bytes", "PEAK"),
    tables.size("share_bytes", "SHARE"),
    tables.size("pool_bytes", "POOL"),
    tables.number("runs"),
)
COMPARISON_COLUMNS = (
    tables.text("checkpoint"),
    tables.text("layout"),
    tables.text("label", "OURS"),
    tables.text("peer"),
    tables.text("peer_layout", "ITS LAYOUT"),
    tables.number("ratio", "TIMES AS FAST"),
    tables.number("low", "95 % FROM"),
    tables.number("high", "TO"),
    tables.text("ahead", ""),
)
ADAPTER_COLUMNS = (
    tables.text("layout"),
    tables.text("label", "LOADER"),
    tables.seconds("load_seconds", "ALL"),
    tables.seconds("total_seconds", "AND TOUCH"),
    tables.number("load_of_limit", "LOAD TO LIMIT"),
    tables.number("of_limit", "TO LIMIT"),
    tables.seconds("one_seconds", "ONE"),
    tables.number("one_of_limit", "ONE TO LIMIT"),
    tables.seconds("attach_seconds", "ATTACH"),
    tables.seconds("cpu_seconds"),
    tables.number("runs"),
)
ABLATION_COLUMNS = (
    tables.text("checkpoint"),
    tables.text("step"),
    tables.seconds("load_seconds"),
    tables.rate("bytes_per_second", "SPEED"),
    tables.number("gain", "TIMES THE ONE BEFORE"),
)
SLICE_COLUMNS = (
    tables.text("checkpoint"),
    tables.text("loader", "LOAD"),
    tables.seconds("load_seconds", "SECONDS"),
    tables.number("disk_ratio", "TIMES ITS SIZE FROM DISK"),
)
_TITLES = {
    "cold": "Cold: from the disk, whose limit is the best of the independent readers",
    "hot": "Hot: from the page cache",
    "gpu": "GPU: from the disk, and from a pool; the limit is that of disk and link",
    "dram": "DRAM: attached from another process's pool, beside a file in the page cache",
}


def print_report(measured: Measured) -> None:
    """Print the tables of what was measured, then what went otherwise, the targets last."""
    for part, title in _TITLES.items():
        _print(title, _labelled(rows.load_rows(measured, part)), LOAD_COLUMNS)
        if part != "dram":
            compared = rows.comparison_rows(measured, part)
            title = f"Ours beside the others, {part}"
            _print(title, _labelled(compared, "ours"), COMPARISON_COLUMNS)
    _print("Adapters, cold", _labelled(rows.adapter_rows(measured)), ADAPTER_COLUMNS)
    compared = rows.comparison_rows(measured, "adapters")
    _print("Ours beside the others, adapters", _labelled(compared, "ours"), COMPARISON_COLUMNS)
    _print("Slices for several devices", rows.slice_rows(measured), SLICE_COLUMNS)
    _print("One technique more each time", rows.ablation_rows(measured), ABLATION_COLUMNS)
    for line in notes(measured):
        click.echo(f"\nNote: {line}")
    found = figures.targets(measured)
    _print("Targets", [target_row(each) for each in found], TARGET_COLUMNS)


def notes(measured: Measured) -> list[str]:
    """Return what is to be known beside the figures, a line each."""
    lines = list(measured.notes)
    lines += [f"{package} is missing: {why}" for package, why in measured.missing.items()]
    lines += [f"{loader} failed: {why}" for loader, why in measured.mishaps.failed.items()]
    lines += [
        f"{count} of the runs of {loader} did not read what they should have from the disk,"
        " and were thrown away"
        for loader, count in measured.mishaps.thrown_away.items()
    ]
    if measured.places("dram"):
        has = "has" if figures.has_huge_pages(measured) else "has no"
        lines.append(f"the pool that is attached {has} huge pages")
    return lines


def as_document(
    measured: Measured, *, machine: Mapping[str, Any], settings: Mapping[str, Any]
) -> dict[str, Any]:
    """Return what is written for programs: figures first, then all they come from."""
    return {
        **figures.figures(measured),
        "targets": [{**asdict(each), "is_met": each.is_met} for each in figures.targets(measured)],
        "dram_has_huge_pages": figures.has_huge_pages(measured),
        "machine": machine,
        "settings": settings,
        "peers": dict(measured.versions),
        "notes": notes(measured),
        **{part: rows.load_rows(measured, part) for part in _TITLES},
        "adapters": rows.adapter_rows(measured),
        "slices": rows.slice_rows(measured),
        "ablation": rows.ablation_rows(measured),
        "comparisons": {
            part: rows.comparison_rows(measured, part)
            for part in ("cold", "hot", "gpu", "adapters")
        },
        "runs": [
            {
                "part": run.part,
                "checkpoint": run.checkpoint,
                "layout": str(run.layout),
                "loader": run.loader,
                "round": run.round,
                **msgspec.to_builtins(run.loaded),
            }
            for run in measured.runs
        ],
    }


def label_of(loader: str) -> str:
    """Return a loader's name for people."""
    return LABELS.get(loader, loader)


def _labelled(found: Sequence[Row], key: str = "loader") -> list[Row]:
    return [{**row, "label": label_of(row[key])} for row in found]


def _print(title: str, found: Sequence[Row], columns: Sequence[tables.Column]) -> None:
    if found:
        click.echo(f"\n{title}")
        tables.write_rows(found, columns)
