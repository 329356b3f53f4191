"""Where published traces lie, which are not shipped."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from pilotlight.scheduler.simulation.scenarios.errors import InvalidScenario

VARIABLE = "PILOTLIGHT_TRACES"


class TraceFolder:
    """Finds a scenario's traces, by paths below one folder or absolute ones."""

    def __init__(self, folder: Path | None, *, source: str) -> None:
        """`folder` = None is what the environment says; `source` is named in errors."""
        named = os.environ.get(VARIABLE, "")
        self._folder = folder if folder is not None else Path(named) if named else None
        self._source = source

    def find(self, patterns: Sequence[str], *, key: str) -> list[Path]:
        """Return the files, those of one pattern in the order of the numbers in their names.

        Raises:
            InvalidScenario: a pattern matches no file, or no folder is named.
        """
        found: list[Path] = []
        for row, pattern in enumerate(patterns):
            files = sorted(self._matching(pattern, key=key), key=_natural)
            if not files:
                raise InvalidScenario(
                    self._source,
                    f"no file {self._folder_of(pattern) / pattern} is there",
                    key=f"{key}[{row}]" if len(patterns) > 1 else key,
                    hint=f"`pilotlight traces` says where traces are published, {VARIABLE} names"
                    " the folder where yours lie",
                )
            found += files
        return found

    def _matching(self, pattern: str, *, key: str) -> list[Path]:
        if not Path(pattern).is_absolute() and self._folder is None:
            raise InvalidScenario(
                self._source,
                f"it needs the published trace {pattern}, and {VARIABLE} is not set",
                key=key,
                hint=f"set {VARIABLE} to the folder of traces; `pilotlight traces` says where"
                " they are published",
            )
        folder = self._folder_of(pattern)
        try:
            return [path for path in folder.glob(pattern.lstrip("/")) if path.is_file()]
        except ValueError as exc:
            raise InvalidScenario(self._source, f"{pattern!r}: {exc}", key=key) from exc

    def _folder_of(self, pattern: str) -> Path:
        if Path(pattern).is_absolute():
            return Path(Path(pattern).anchor)
        assert self._folder is not None, "it was looked at before"
        return self._folder


def _natural(path: Path) -> list[tuple[int, str]]:
    """Return what sorts chunk-2 before chunk-10."""
    return [
        (int(part), "") if part.isdigit() else (-1, part)
        for part in re.split(r"([0-9]+)", str(path))
    ]
