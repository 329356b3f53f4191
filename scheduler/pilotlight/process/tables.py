"""Lists of things, for people (table, wide) and for programs (json, yaml).

Programs get every value raw, with its unit in the key's name; people get
columns, sizes and durations in words.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TextIO, cast

from pilotlight.process.quantities import (
    format_bytes,
    format_moment,
    format_rate,
    format_seconds,
)

if TYPE_CHECKING:
    from rich.table import Table

OutputFormat = Literal["table", "wide", "json", "yaml"]
OUTPUT_FORMATS: tuple[OutputFormat, ...] = ("table", "wide", "json", "yaml")
Row = Mapping[str, Any]

_ABSENT = "-"
# A table that is not shown on a terminal is never wrapped.
_UNLIMITED_COLUMNS = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One column of a table."""

    key: str
    """Of the value in a row."""
    header: str
    is_wide_only: bool = False
    is_number: bool = False
    """Numbers stand at the right edge."""
    show: Callable[[Any], str] = str
    """Writes a value that is there for people."""


def text(key: str, header: str = "", *, wide_only: bool = False) -> Column:
    """Return a column of words."""
    return Column(key=key, header=header or _header(key), is_wide_only=wide_only, show=_words)


def number(key: str, header: str = "", *, wide_only: bool = False) -> Column:
    """Return a column of counts."""
    return _numeric(key, header, _plain_number, wide_only=wide_only)


def size(key: str, header: str = "", *, wide_only: bool = False) -> Column:
    """Return a column of bytes, shown as "1.5 GiB"."""
    return _numeric(key, header, format_bytes, wide_only=wide_only)


def rate(key: str, header: str = "", *, wide_only: bool = False) -> Column:
    """Return a column of bytes per second, shown as "2.21 GB/s"."""
    return _numeric(key, header, format_rate, wide_only=wide_only)


def seconds(key: str, header: str = "", *, wide_only: bool = False) -> Column:
    """Return a column of durations, shown as "2.41 s"."""
    return _numeric(key, header, format_seconds, wide_only=wide_only)


def moment(key: str, header: str = "", *, wide_only: bool = False) -> Column:
    """Return a column of seconds since 1970, shown as local time."""
    return Column(
        key=key,
        header=header or _header(key.removesuffix("_at")),
        is_wide_only=wide_only,
        show=format_moment,
    )


def share(key: str, header: str = "", *, wide_only: bool = False) -> Column:
    """Return a column of parts of one, shown as "42%"."""
    return _numeric(key, header, "{:.0%}".format, wide_only=wide_only)


def write_rows(
    rows: Sequence[Row],
    columns: Sequence[Column],
    *,
    format: OutputFormat = "table",
    empty: str = "nothing to show",
    stream: TextIO | None = None,
) -> None:
    """Write rows to stdout; for people, an empty list is `empty` on stderr."""
    target = sys.stdout if stream is None else stream
    if format == "json":
        target.write(_to_json(rows))
    elif format == "yaml":
        target.write(_to_yaml(rows))
    elif rows:
        _print_table(_table(rows, columns, is_wide=format == "wide"), target)
    else:
        print(empty, file=sys.stderr)  # noqa: T201 - the words for people, beside the output


def _header(key: str) -> str:
    for unit in ("_bytes_per_second", "_bytes", "_seconds"):
        key = key.removesuffix(unit)
    return key.replace("_", " ").upper()


def _numeric(key: str, header: str, show: Callable[[Any], str], *, wide_only: bool) -> Column:
    return Column(
        key=key,
        header=header or _header(key),
        is_wide_only=wide_only,
        is_number=True,
        show=show,
    )


def _words(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(str, cast("Sequence[Any]", value))) or _ABSENT
    return str(value) or _ABSENT


def _plain_number(value: float) -> str:
    return f"{value:,d}" if isinstance(value, int) else f"{value:,.4g}"


def _table(rows: Sequence[Row], columns: Sequence[Column], *, is_wide: bool) -> Table:
    # rich takes 40 ms to import, which commands that print JSON need not pay.
    from rich.table import Table
    from rich.text import Text

    shown = [column for column in columns if is_wide or not column.is_wide_only]
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for column in shown:
        table.add_column(
            column.header, justify="right" if column.is_number else "left", overflow="fold"
        )
    for row in rows:
        table.add_row(*(Text(_cell(row, column)) for column in shown))
    return table


def _cell(row: Row, column: Column) -> str:
    value = row.get(column.key)
    return _ABSENT if value is None else column.show(value)


def _print_table(table: Table, target: TextIO) -> None:
    from rich.console import Console

    width = None if target.isatty() else _UNLIMITED_COLUMNS
    console = Console(file=target, width=width, highlight=False, soft_wrap=False)
    if target.isatty():
        console.print(table)
        return
    with console.capture() as capture:
        console.print(table)
    target.writelines(line.rstrip() + "\n" for line in capture.get().splitlines())


def _to_json(rows: Sequence[Row]) -> str:
    import msgspec

    return msgspec.json.format(msgspec.json.encode(list(rows)), indent=2).decode() + "\n"


def _to_yaml(rows: Sequence[Row]) -> str:
    import msgspec
    import yaml

    plain = msgspec.to_builtins(list(rows))
    return yaml.safe_dump(plain, sort_keys=False, allow_unicode=True)
