"""How a worker ended."""

from __future__ import annotations

import signal
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerDeath:
    """A worker's end: the process is reaped, and nothing of it maps a chunk any more."""

    worker_id: str
    exit_code: int | None
    """None where a signal ended it, or where nobody was left to see."""
    signal: int | None
    log_tail: str
    """The last lines that it wrote."""
    code: str = ""
    """What the worker itself said of its end, if it could: a word for programs,"""
    message: str = ""
    """and one line for people."""

    @property
    def reason(self) -> str:
        """Return one line that says why."""
        if self.message:
            return self.message
        if self.signal is not None:
            how = f"was killed by {_signal_name(self.signal)}"
            if self.signal == signal.SIGKILL:
                how += ", perhaps by the kernel for want of memory"
        elif self.exit_code is not None:
            how = f"ended with exit code {self.exit_code}"
        else:
            how = "ended together with the process that made it"
        lines = self.log_tail.splitlines()
        last_words = f"; its last line: {lines[-1].strip()}" if lines else ""
        return f"worker {self.worker_id} {how}{last_words}"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"  # Those for real-time have no names.
