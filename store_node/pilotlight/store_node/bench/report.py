"""What a bench prints, and what it writes for programs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import click
import msgspec

from pilotlight.process import tables
from pilotlight.process.bench.targets import TARGET_COLUMNS, target_row
from pilotlight.store_node.bench import summaries
from pilotlight.store_node.bench.summaries import Measured, Row

START_COLUMNS = (
    tables.text("checkpoint"),
    tables.text("tier"),
    tables.text("worker"),
    tables.seconds("first_token_seconds"),
    tables.seconds("p90_seconds"),
    tables.seconds("queue_seconds"),
    tables.seconds("transfer_seconds"),
    tables.seconds("worker_seconds", "WORKER WAIT"),
    tables.seconds("bind_seconds"),
    tables.seconds("handover_seconds"),
    tables.seconds("prefill_seconds"),
    tables.number("phases_error_percent", "SUM OFF BY %"),
    tables.seconds("teardown_seconds"),
)
FLOOR_COLUMNS = (
    tables.text("checkpoint"),
    tables.text("tier"),
    tables.text("worker"),
    tables.seconds("first_token_seconds"),
    tables.seconds("floor_seconds"),
    tables.number("floor_ratio", "RATIO"),
    tables.number("floor_ratio_p90", "P90"),
    tables.seconds("imported_seconds", "FROM_PRETRAINED"),
    tables.seconds("fresh_seconds", "WITH IMPORTS"),
)
PART_COLUMNS = (
    tables.text("checkpoint"),
    tables.size("size_bytes"),
    tables.rate("read_bytes_per_second", "DISK"),
    tables.seconds("read_seconds"),
    tables.seconds("fork_seconds"),
    tables.seconds("prepare_seconds"),
    tables.seconds("bind_seconds"),
    tables.seconds("prefill_seconds"),
)
RACE_COLUMNS = (
    tables.text("model"),
    tables.number("concurrency"),
    tables.number("tokens_per_second", "TOKENS/S"),
    tables.number("transformers_tokens_per_second", "TRANSFORMERS"),
    tables.number("ratio"),
)
PREFILL_COLUMNS = (
    tables.text("model"),
    tables.number("prompt_tokens"),
    tables.seconds("engine_seconds"),
    tables.seconds("plain_seconds", "PLAIN PASS"),
    tables.number("ratio"),
)
OUTPUT_COLUMNS = (
    tables.text("model"),
    tables.text("dtype"),
    tables.number("requests"),
    tables.number("outputs"),
    tables.number("cancelled"),
    tables.number("unequal"),
    tables.number("unexplained"),
    tables.number("largest_margin"),
)
DIFFERENCE_COLUMNS = (
    tables.text("model"),
    tables.text("dtype"),
    tables.text("request"),
    tables.text("way"),
    tables.number("seq", "TOKEN"),
    tables.number("expected_id", "ALONE"),
    tables.number("found_id", "FOUND"),
    tables.number("margin"),
)


def print_report(measured: Measured) -> None:
    """Print the tables of what was measured, and the targets last."""
    _print(
        "Starts, medians; SSD and DRAM say where the weights were",
        summaries.start_rows(measured),
        START_COLUMNS,
    )
    _print("The same parts alone", summaries.part_rows(measured), PART_COLUMNS)
    _print(
        "First tokens beside their floor, and beside from_pretrained",
        summaries.start_rows(measured),
        FLOOR_COLUMNS,
    )
    _print(
        "Tokens a second beside transformers' continuous batching",
        summaries.race_rows(measured),
        RACE_COLUMNS,
    )
    _print("Prompts beside a plain pass", summaries.prefill_rows(measured), PREFILL_COLUMNS)
    _print(
        "Outputs beside those of the same request alone",
        summaries.output_rows(measured),
        OUTPUT_COLUMNS,
    )
    _print(
        "Where they differ, and how far logits would have to move, in standard deviations",
        _difference_rows(measured),
        DIFFERENCE_COLUMNS,
    )
    found = summaries.targets(summaries.figures(measured))
    _print("Targets", [target_row(each) for each in found], TARGET_COLUMNS)


def as_document(
    measured: Measured, *, machine: Mapping[str, Any], settings: Mapping[str, Any]
) -> dict[str, Any]:
    """Return what is written for programs: figures first, then all they come from."""
    found = summaries.figures(measured)
    return {
        **found,
        "targets": [{**asdict(each), "is_met": each.is_met} for each in summaries.targets(found)],
        "machine": machine,
        "settings": settings,
        "starts": summaries.start_rows(measured),
        "parts": summaries.part_rows(measured),
        "rounds": {
            name: [msgspec.to_builtins(each) for each in rounds]
            for name, rounds in measured.starts.items()
        },
        "throughput": summaries.race_rows(measured),
        "prefill": summaries.prefill_rows(measured),
        "outputs": summaries.output_rows(measured),
        "differences": _difference_rows(measured),
    }


def _print(title: str, rows: Sequence[Row], columns: Sequence[tables.Column]) -> None:
    if rows:
        click.echo(f"\n{title}")
        tables.write_rows(rows, columns)


def _difference_rows(measured: Measured) -> list[Row]:
    return [
        {"model": each.model, "dtype": each.dtype, **msgspec.structs.asdict(differing)}
        for each in measured.outputs
        for differing in each.compared.differing
    ]
