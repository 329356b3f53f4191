"""The figures of one run of `pilotlight bench load`, from the file that it wrote."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import Any

from tables import code, table

_FILE = Path(__file__).parents[1] / "reference" / "load.json"

Row = dict[str, Any]

_OURS = {
    "pool": "**Pilotlight, into a pool**",
    "fresh": "**Pilotlight, `load`**",
    "batch": "**Pilotlight, a batch into a pool**",
    "fresh-batch": "**Pilotlight, `load_batch`**",
    "one-by-one": "**Pilotlight, one by one into a pool**",
    "attach": "**Pilotlight, attached**",
}


def markdown(argument: str) -> str:
    """Return one of the tables, by its name."""
    return _TABLES[argument](_found())


@cache
def _found() -> Row:
    found: Row = json.loads(_FILE.read_text())
    return found


def _cold(found: Row) -> str:
    rows = [row for row in found["cold"] if not _is_slower_reader(row)]
    return table(
        ["Checkpoint", "Layout", "Loader", "Load", "and touch", "Of the limit", "CPU", "Memory"],
        (
            [
                row["checkpoint"],
                row["layout"],
                _name(row),
                _seconds(row["load_seconds"]),
                _seconds(row["total_seconds"]),
                _ratio(row["of_limit"]),
                _seconds(row["cpu_seconds"]),
                _memory(row),
            ]
            for row in rows
        ),
    )


def _hot(found: Row) -> str:
    return _times(["hot", "dram"], found)


def _times(parts: Iterable[str], found: Row) -> str:
    return table(
        ["Where", "Loader", "Load", "and touch", "From the disk", "CPU"],
        (
            [
                {"hot": "page cache", "dram": "another process's pool"}[part],
                _name(row),
                _seconds(row["load_seconds"]),
                _seconds(row["total_seconds"]),
                f"{row['bytes_read'] / 1e9:.2f} GB",
                _seconds(row["cpu_seconds"]),
            ]
            for part in parts
            for row in found[part]
            if part == "hot" or row["loader"] == "attach"
        ),
    )


def _adapters(found: Row) -> str:
    rows = [row for row in found["adapters"] if not _is_slower_reader(row)]
    return table(
        ["Loader", "All", "Of the limit", "One of them", "Of the limit"],
        (
            [
                _name(row),
                _seconds(row["total_seconds"]),
                _ratio(row["of_limit"]),
                _seconds(row["one_seconds"]),
                _ratio(row["one_of_limit"]),
            ]
            for row in rows
        ),
    )


def _ablation(found: Row) -> str:
    return table(
        ["Step", "GB/s", "Times the one before"],
        (
            [row["step"], f"{row['bytes_per_second'] / 1e9:.2f}", _ratio(row["gain"])]
            for row in found["ablation"]
        ),
    )


def _figures(found: Row) -> str:
    return table(
        ["Figure", "Measured", "Target"],
        (
            [
                code(target["figure"]),
                f"{target['value']:.3g}",
                f"{'at least' if target['is_least'] else 'at most'} {target['target']:g}",
            ]
            for target in found["targets"]
        ),
    )


def _versions(found: Row) -> str:
    return ", ".join(f"{name} {version}" for name, version in found["peers"].items()) + ".\n"


def _is_slower_reader(row: Row) -> bool:
    return row["loader"].startswith(("raw", "fio")) and not row["is_limit"]


def _name(row: Row) -> str:
    return "the limit" if row["is_limit"] else _OURS.get(row["loader"], row["loader"])


def _memory(row: Row) -> str:
    size_bytes = row["pool_bytes"] or row["share_bytes"]
    return f"{size_bytes / 1e9:.2f} GB" if size_bytes else ""


def _seconds(seconds: float | None) -> str:
    if seconds is None:
        return ""
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1e3:.3g} ms"


def _ratio(ratio: float | None) -> str:
    return "" if ratio is None else f"{ratio:.2f}"


_TABLES: dict[str, Callable[[Row], str]] = {
    "cold": _cold,
    "hot": _hot,
    "adapters": _adapters,
    "ablation": _ablation,
    "figures": _figures,
    "versions": _versions,
}
