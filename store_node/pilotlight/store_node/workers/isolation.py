"""Making a forked process its own."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from pilotlight.process.lifeline import die_with_parent

_STANDARD = (0, 1, 2)


def isolate(*, zygote_pid: int, log_path: str, keep: int) -> None:
    """Tie this process's life to the zygote's, and cut all else that it inherited.

    Only the descriptor `keep` stays open. What is written to stdout and stderr
    goes to the log.
    """
    die_with_parent(zygote_pid)
    # Whoever presses Ctrl-C means the node, which then ends its workers itself.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    _redirect(log_path)
    for name in os.listdir("/proc/self/fd"):
        descriptor = int(name)
        if descriptor != keep and descriptor not in _STANDARD:
            _close(descriptor)


def n_threads() -> int:
    """Return the number of threads of this process, those of libraries included."""
    return sum(1 for _ in Path("/proc/self/task").iterdir())


def _redirect(log_path: str) -> None:
    log = os.open(log_path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o600)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(log, 1)
    os.dup2(log, 2)


def _close(descriptor: int) -> None:
    try:
        os.close(descriptor)
    except OSError:
        pass  # The directory listing had a descriptor of its own, which is gone.
