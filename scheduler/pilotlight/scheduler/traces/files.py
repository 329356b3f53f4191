"""Files of traces: text that is read line by line."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

from pilotlight.scheduler.errors import BrokenTrace

_MOST_LINE_BYTES = 1 << 20


class TraceFile:
    """An open file, and how far it was read."""

    def __init__(self, path: Path) -> None:
        """Open a file.

        Raises:
            BrokenTrace: it can't be opened.
        """
        self.path = path
        try:
            self._bytes = path.open("rb")
        except OSError as exc:
            raise self._unreadable(exc) from exc

    def __repr__(self) -> str:
        return f"<TraceFile {self.path}>"

    def __enter__(self) -> TraceFile:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._bytes.close()

    @property
    def size_bytes(self) -> int:
        """Return how long it is; 0 for what has no length."""
        return os.fstat(self._bytes.fileno()).st_size

    @property
    def done_bytes(self) -> int:
        """Return how much of it was read."""
        return self._bytes.tell()

    def broken(self, rule: str, *, row: int | None = None) -> BrokenTrace:
        """Return the error that says which rule the file breaks."""
        return BrokenTrace(self.path, rule, row=row)

    def lines(self) -> Iterator[str]:
        """Yield the lines from the first one on, with their ends; no mark of byte order.

        Raises:
            BrokenTrace: it can't be read, is no text, or has a line without end.
        """
        number = 0
        try:
            self._bytes.seek(0)
            while line := self._bytes.readline(_MOST_LINE_BYTES):
                number += 1
                if len(line) == _MOST_LINE_BYTES:
                    raise self.broken("it is longer than any row", row=number)
                yield line.decode("utf-8-sig" if number == 1 else "utf-8")
        except OSError as exc:
            raise self._unreadable(exc) from exc
        except UnicodeDecodeError as exc:
            raise self.broken(f"it is no text: {exc.reason}", row=number) from exc

    def _unreadable(self, error: OSError) -> BrokenTrace:
        return self.broken(f"it can't be read: {error.strerror or error}")
