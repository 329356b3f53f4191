"""Paths that must not lead out of the directories a server was given."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from pilotlight.native_loader.errors import NotACheckpoint, OutsideRoots


class Roots:
    """Directories that every path, its links followed, must lead into; none means anywhere."""

    def __init__(self, roots: Sequence[Path]) -> None:
        self._given = tuple(roots)
        self._resolved = tuple(Path(root).resolve() for root in roots)

    def check(self, path: Path) -> None:
        """Check one path, which need not exist.

        Raises:
            OutsideRoots: it leads elsewhere.
            NotACheckpoint: its links lead in a circle.
        """
        if not self._resolved:
            return
        try:
            resolved = path.resolve()
        except (OSError, RuntimeError) as exc:
            raise NotACheckpoint(path, "is a link that leads in a circle") from exc
        self._check_resolved(resolved, path)

    def check_open(self, fd: int, path: Path) -> None:
        """Check where the file lies that was opened by `path`.

        A link that is changed after `check` and before the open leads elsewhere; what is
        open stays what it is.

        Raises:
            OutsideRoots: it lies elsewhere.
            OSError: the kernel does not say.
        """
        if self._resolved:
            self._check_resolved(Path(os.readlink(f"/proc/self/fd/{fd}")), path)

    def _check_resolved(self, resolved: Path, path: Path) -> None:
        if not any(resolved.is_relative_to(root) for root in self._resolved):
            raise OutsideRoots(path, self._given)
