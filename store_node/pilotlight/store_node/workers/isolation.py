"""Making a forked process its own.

Theory of operation of the memory limit. What a worker may allocate is limited by
RLIMIT_DATA, above what it has from its zygote: past the limit, allocations fail,
which engines tell as MemoryError, before the machine is short. The kernel counts
all private writable memory, touched or not, stacks of threads among it; it does
not count what is mapped read-only or shared, as libraries' code and the pool are
in a node. A checkpoint's mapping is private and writable, though hardly ever
written to, and so would count with its whole size: it is exempted.

RLIMIT_AS would count everything, the address space that devices' drivers only
reserve among it; RLIMIT_RSS is not enforced by Linux; and a cgroup kills where
this refuses, and is not every node's to make.
"""

from __future__ import annotations

import os
import resource
import signal
from pathlib import Path

from pilotlight.native_loader.memory.memory_limits import data_bytes
from pilotlight.process.lifeline import die_with_parent

_STANDARD = (0, 1, 2)

# The largest that the kernel's interface takes; more means infinity.
_MOST_LIMIT_BYTES = 2**63 - 1

NO_LIMIT = 0
"""In the place of a number of bytes."""


def isolate(*, zygote_pid: int, log_path: str, keep: int, memory_bytes: int) -> None:
    """Tie this process's life to the zygote's, and cut all else that it inherited.

    Only the descriptor `keep` stays open. What is written to stdout and stderr
    goes to the log. From now on `memory_bytes` may be allocated.
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
    if memory_bytes != NO_LIMIT:
        _set_limit(data_bytes() + memory_bytes)


def exempt_mapping(size_bytes: int) -> None:
    """Let so many bytes be mapped, private and writable, beside what may be allocated."""
    limit, _ = resource.getrlimit(resource.RLIMIT_DATA)
    if limit != resource.RLIM_INFINITY:
        _set_limit(limit + size_bytes)


def lift_memory_limit() -> None:
    """Let anything be allocated, as by a process that ends and only has to say why."""
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (hard, hard))


def n_threads() -> int:
    """Return the number of threads of this process, those of libraries included."""
    return sum(1 for _ in Path("/proc/self/task").iterdir())


def _set_limit(limit_bytes: int) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    most = hard if hard != resource.RLIM_INFINITY else _MOST_LIMIT_BYTES
    resource.setrlimit(resource.RLIMIT_DATA, (min(limit_bytes, most), hard))


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
