"""The charts of what a bench has measured, one file each."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pilotlight.native_loader.bench import rows
from pilotlight.native_loader.bench.bars import Bar, chart
from pilotlight.native_loader.bench.report import label_of
from pilotlight.native_loader.bench.rows import Row
from pilotlight.native_loader.bench.runs import OURS, Measured, is_reader
from pilotlight.process.quantities import format_rate

_TITLES = {"cold": "from the disk", "hot": "from the page cache", "adapters": "adapters, cold"}


def write_plots(measured: Measured, directory: Path) -> list[Path]:
    """Write all charts below a directory; return their files."""
    directory.mkdir(parents=True, exist_ok=True)
    written: list[Path] = []
    for name, text in charts(measured).items():
        file = directory / f"{name}.svg"
        file.write_text(text)
        written.append(file)
    return written


def charts(measured: Measured) -> dict[str, str]:
    """Return the charts by name."""
    found: dict[str, str] = {}
    for part in _TITLES:
        for checkpoint in dict.fromkeys(place.checkpoint for place in measured.places(part)):
            found[f"{part}-{checkpoint}"] = _loads(measured, part, checkpoint)
    steps = rows.ablation_rows(measured)
    for checkpoint in dict.fromkeys(row["checkpoint"] for row in steps):
        found[f"ablation-{checkpoint}"] = chart(
            f"{checkpoint}, one technique more each time",
            "From the disk into a device's memory; more is better",
            [_step(row) for row in steps if row["checkpoint"] == checkpoint],
        )
    return found


def _loads(measured: Measured, part: str, checkpoint: str) -> str:
    here = [row for row in rows.load_rows(measured, part) if row["checkpoint"] == checkpoint]
    limits = [row["bytes_per_second"] for row in here if row["is_limit"]]
    what = "Tensors loaded and every page touched; more is better"
    return chart(
        f"{checkpoint}, {_TITLES[part]}",
        what + ("; the line is the disk's limit" if limits else ""),
        _bars([row for row in here if not is_reader(row["loader"])]),
        limit=max(limits, default=None),
    )


def _bars(loads: Sequence[Row]) -> list[Bar]:
    has_layouts = len({row["layout"] for row in loads}) > 1
    return [
        Bar(
            label=label_of(row["loader"]) + (f", {row['layout']}" if has_layouts else ""),
            value=row["bytes_per_second"],
            shown=format_rate(row["bytes_per_second"]),
            is_ours=row["loader"] in OURS,
        )
        for row in sorted(loads, key=lambda row: -row["bytes_per_second"])
    ]


def _step(row: Row) -> Bar:
    rate = row["bytes_per_second"]
    return Bar(label=row["step"], value=rate, shown=format_rate(rate), is_ours=True)
