"""Whether a command printed what a page shows, whatever its numbers were."""

from __future__ import annotations

import re

ELLIPSIS = "…"

_ID = re.compile(r"\b[0-9a-f]{12,}\b")
_QUANTITY = re.compile(
    r"(?<![A-Za-z_])-?\d[\d.,:T-]*(\s*(ms|s|B|[KMGT]i?B|[kMG]B/s|[KMG]iB/s|%)(?!\w))?"
)


def missing_lines(shown: str, printed: str) -> list[str]:
    """Return the lines of `shown` that were not printed.

    Numbers, quantities and ids may differ, and so may the width of columns; "…"
    stands for anything. Of a table's head, the columns must be there in order.
    """
    lines = [_plain(line) for line in printed.splitlines()]
    return [
        line
        for line in shown.splitlines()
        if line.strip(f" {ELLIPSIS}") and not any(map(_pattern(line).search, lines))
    ]


def _pattern(line: str) -> re.Pattern[str]:
    parts = _plain(line).split(ELLIPSIS)
    return re.compile("^" + ".*".join(map(re.escape, parts)) + "$")


def _plain(line: str) -> str:
    return " ".join(_QUANTITY.sub("#", _ID.sub("#", line)).split())
