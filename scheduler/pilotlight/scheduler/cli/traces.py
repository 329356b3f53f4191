"""`pilotlight traces`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pilotlight.process import tables
from pilotlight.process.commands import CommandError, output_option, show_progress

if TYPE_CHECKING:
    from pilotlight.scheduler.traces import TraceFile

FORMAT_COLUMNS = (
    tables.text("name"),
    tables.text("holds"),
    tables.text("licence"),
    tables.text("published"),
    tables.text("columns", wide_only=True),
)
FILE_COLUMNS = (
    tables.text("file"),
    tables.text("trace"),
    tables.number("rows"),
    tables.size("size_bytes"),
)

_MOST_COLUMNS = 10
_ROWS_BETWEEN_PROGRESS = 1000


@click.command()
@click.argument("files", nargs=-1, type=click.Path(path_type=Path))
@output_option
def traces(files: tuple[Path, ...], output: tables.OutputFormat) -> None:
    """List the public traces that can be replayed, or check FILES of them row by row.

    None of them comes with Pilotlight; the list says where each is published, and
    under which licence. Which one a file is, its first row tells. A file that breaks
    a rule is named with the row and the rule, and the others are checked
    nevertheless.

    \b
    pilotlight traces
    pilotlight traces AzureLLMInferenceTrace_conv.csv chunk-*-trace.csv
    """
    if not files:
        tables.write_rows(_formats(), FORMAT_COLUMNS, format=output, empty="")
        return
    from pilotlight.scheduler.traces import BrokenTrace, TraceFile

    checked: list[dict[str, Any]] = []
    broken: list[str] = []
    for path in files:
        try:
            with TraceFile(path) as file:
                checked.append(_check(file))
        except BrokenTrace as exc:
            broken.append(str(exc))
    tables.write_rows(checked, FILE_COLUMNS, format=output, empty="no file is whole")
    if broken:
        raise CommandError("\n".join(broken))


def _formats() -> list[dict[str, Any]]:
    from pilotlight.scheduler.traces import FORMATS

    return [
        {
            "name": each.name,
            "holds": each.holds,
            "licence": each.licence,
            "published": each.published,
            "columns": ", ".join(each.columns[:_MOST_COLUMNS])
            + (", …" if len(each.columns) > _MOST_COLUMNS else ""),
        }
        for each in FORMATS
    ]


def _check(file: TraceFile) -> dict[str, Any]:
    from pilotlight.scheduler.traces import detect

    found = detect(file)
    n_rows = 0
    with show_progress(f"checking {file.path.name}", file.size_bytes) as progress:
        for n_rows, _ in enumerate(found.read(file), 1):
            if n_rows % _ROWS_BETWEEN_PROGRESS == 0:
                progress.update(file.done_bytes)
    return {
        "file": str(file.path),
        "trace": found.name,
        "rows": n_rows,
        "size_bytes": file.size_bytes,
    }
