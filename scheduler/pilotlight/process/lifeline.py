"""Child processes that don't outlive the process which started them."""

from __future__ import annotations

import ctypes
import os
import signal

_PR_SET_PDEATHSIG = 1


def die_with_parent(
    parent_pid: int | None = None, *, death_signal: signal.Signals = signal.SIGKILL
) -> None:
    """Have the kernel send this process `death_signal` when its parent dies.

    Call it first thing in a child. `parent_pid` is the parent's pid, handed over
    by the parent: with it, a parent that died before this call is noticed too,
    and the signal is delivered at once. Linux watches the *thread* that started
    the child, so parents start their children from a thread which lives as long
    as they do. The setting survives exec (but for set-user-ID programs) and is
    not inherited by the child's own children.

    Raises:
        OSError: the kernel refused.
    """
    expected = os.getppid() if parent_pid is None else parent_pid
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, ctypes.c_ulong(death_signal), 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"prctl(PR_SET_PDEATHSIG): {os.strerror(number)}")
    # The parent may have died before prctl took effect; then nobody would tell.
    if os.getppid() != expected:
        os.kill(os.getpid(), death_signal)
