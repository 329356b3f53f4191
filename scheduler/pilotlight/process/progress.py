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
        self._total = total_bytes
        self._stream = stream
        self._clock = clock
        self._done = 0
        self._started = clock()
        self._is_terminal = stream.isatty()
        self._has_written = False
        self._next_write = self._started + _SHORT_WORK_SECONDS

    def advance(self, n: int) -> None:
        """Count more as done."""
        self.update(self._done + n)

    def update(self, done: int) -> None:
        """Say how much is done in all."""
        self._done = done
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
        rate = self._done / max(now - self._started, 1e-9)
        line = f"{self._label}: {self._amount(rate)}"
        left = self._total - self._done
        return f"{line}, {format_seconds(left / rate)} left" if rate > 0 and left > 0 else line

    def _amount(self, rate: float) -> str:
        return f"{format_bytes(self._done)} of {format_bytes(self._total)}, {format_rate(rate)}"


class StepProgress(Progress):
    """Steps done of steps to do, and which one is next."""

    def begin(self, label: str) -> None:
        """Say what the next step is."""
        self._label = label
        self.advance(0)

    def _amount(self, rate: float) -> str:
        return f"{self._done} of {self._total}"


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


@contextmanager
def show_steps(
    label: str, n_steps: int, *, stream: TextIO | None = None
) -> Generator[StepProgress]:
    """Show how many steps of the block are done; otherwise like `show_progress`."""
    progress = StepProgress(label, n_steps, stream=sys.stderr if stream is None else stream)
    try:
        yield progress
    finally:
        progress.clear()
