"""Which processes run, and whose they are."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path


def marked(variable: str) -> list[int]:
    """Return the processes that run with "NAME=VALUE" in the environment they began with."""
    mark = variable.encode()
    pids = [int(name) for name in os.listdir("/proc") if name.isdigit()]
    return [pid for pid in pids if mark in _read(pid, "environ") and runs(pid)]


def below(pid: int, among: Iterable[int]) -> list[int]:
    """Return those of some processes that are a process's children, or theirs."""
    among = list(among)
    children = [other for other in among if parent(other) == pid]
    return children + [each for child in children for each in below(child, among)]


def runs(pid: int) -> bool:
    """Return whether there is such a process, and it is not only waiting to be reaped."""
    return _stat(pid)[:1] not in ([b"Z"], [b"X"], [])


def parent(pid: int) -> int:
    """Return the process that a process was started by, or 0."""
    fields = _stat(pid)
    return int(fields[1]) if fields else 0


def _stat(pid: int) -> list[bytes]:
    # The second field is the program's name in brackets, which may hold anything.
    return _read(pid, "stat").rpartition(b")")[2].split()


def _read(pid: int, file: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/{file}").read_bytes()
    except OSError:
        # It has ended meanwhile, or is somebody else's.
        return b""
