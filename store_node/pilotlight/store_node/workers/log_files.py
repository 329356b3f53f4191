"""What the workers of one engine, and their zygote, have printed."""

from __future__ import annotations

from collections.abc import Container
from contextlib import suppress
from pathlib import Path

MOST_KEPT = 20
"""Logs of workers that have failed, to be looked at; more of them say the same."""


class LogFiles:
    """One file for each, in a directory that engines share."""

    def __init__(self, directory: Path, engine: str) -> None:
        self._directory = directory
        self._prefix = f"{engine}-"

    def path(self, name: str) -> Path:
        """Return where "zygote", or the worker of that number, writes."""
        return self._directory / f"{self._prefix}{name}.log"

    def remove_old(self, *, used: Container[str]) -> None:
        """Keep the last logs of workers that have ended, those of an earlier node among them.

        Those of the workers whose ids are `used` are left alone.
        """
        left = [
            path
            for path in self._directory.glob(f"{self._prefix}*.log")
            if path.stem.removeprefix(self._prefix).isdecimal() and path.stem not in used
        ]
        # What can't be removed does no harm.
        with suppress(OSError):
            for path in sorted(left, key=lambda path: path.lstat().st_mtime)[:-MOST_KEPT]:
                path.unlink(missing_ok=True)
