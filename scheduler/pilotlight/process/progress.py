"""How far a long piece of work is, on stderr."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import TextIO

from pilotlight.process.quantities import format_bytes, format_rate, format_seconds

_SHORT_WORK_SECONDS = 0.5
_TERMINAL_PERIOD_SECONDS = 0.1
_LINE_PERIOD_SECONDS = 5.0


class Progress:
    """Bytes done of bytes to do; one thread at a time."""

    def __init__(
        self,
        label: str,
        total_bytes: int,
        *,
        stream: TextIO,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._label = label
        self._total_bytes = total_bytes
        self._stream = stream
        self._clock = clock
        self._done_bytes = 0
        self._started = clock()
        self._is_terminal = stream.isatty()
        self._has_written = False
        self._next_write = self._started + _SHORT_WORK_SECONDS

    def advance(self, n_bytes: int) -> None:
        """Count more bytes as done."""
        self.update(self._done_bytes + n_bytes)

    def update(self, done_bytes: int) -> None:
        """Say how many bytes are done in all."""
        self._done_bytes = done_bytes
        now = self._clock()
        if now < self._next_write:
            return
        period = _TERMINAL_PERIOD_SECONDS if self._is_terminal else _LINE_PERIOD_SECONDS
        self._next_write = now + period
        self._write(self._line(now))

    def clear(self) -> None:
        """Take the bar away, so that what follows starts on a clean line."""
        if self._has_written and self._is_terminal:
            self._stream.write("\r\x1b[K")
            self._stream.flush()

    def _write(self, line: str) -> None:
        self._has_written = True
        self._stream.write(f"\r{line}\x1b[K" if self._is_terminal else f"{line}\n")
        self._stream.flush()

    def _line(self, now: float) -> str:
        elapsed = max(now - self._started, 1e-9)
        rate = self._done_bytes / elapsed
        line = (
            f"{self._label}: {format_bytes(self._done_bytes)} of {format_bytes(self._total_bytes)}"
            f", {format_rate(rate)}"
        )
        left = self._total_bytes - self._done_bytes
        return f"{line}, {format_seconds(left / rate)} left" if rate > 0 and left > 0 else line


@contextmanager
def show_progress(
    label: str, total_bytes: int, *, stream: TextIO | None = None
) -> Generator[Progress]:
    """Show how far the block is, if it takes longer than half a second.

    A terminal shows one line that changes; anything else gets a plain line
    every five seconds.
    """
    progress = Progress(label, total_bytes, stream=sys.stderr if stream is None else stream)
    try:
        yield progress
    finally:
        progress.clear()
