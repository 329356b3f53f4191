"""The last lines of a log."""

from __future__ import annotations

from pathlib import Path

_TAIL_BYTES = 4096
_TAIL_LINES = 20


def log_tail(path: Path) -> str:
    """Return the last lines of a log; nothing if there is none."""
    try:
        with path.open("rb") as log:
            log.seek(0, 2)
            log.seek(max(log.tell() - _TAIL_BYTES, 0))
            text = log.read().decode(errors="replace")
    except OSError:
        return ""
    return "\n".join(text.splitlines()[-_TAIL_LINES:])
