"""How a bench runs: alone in its home, and until it is told to stop."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import shutil
import signal
from collections.abc import Callable, Coroutine, Generator
from pathlib import Path
from typing import Any, TypeVar

from pilotlight.process.bench.errors import BenchFailed

T = TypeVar("T")

RUN_PREFIX = "run-"
"""The name of a run's folder begins so; the rest is of chance."""

_STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextlib.contextmanager
def only_bench(home: Path) -> Generator[Path]:
    """Keep other benches of this home away; give the directory where this one may write.

    Raises:
        BenchFailed: one runs.
    """
    directory = home / "bench"
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BenchFailed(
                f"a bench runs in {directory}; beside it, this one would measure nothing"
            ) from None
        for stale in directory.glob(f"{RUN_PREFIX}*"):
            # Of one that was killed: whoever holds the lock is the only one.
            shutil.rmtree(stale, ignore_errors=True)
        yield directory


def run_until_told(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine until it ends, or until this process is told to stop.

    Raises:
        KeyboardInterrupt: it was told to, and what the coroutine had begun has ended.
    """

    async def stoppable() -> T:
        task = asyncio.current_task()
        assert task is not None, "a coroutine runs in a task"
        _on_stop(task.cancel)
        return await work

    try:
        return asyncio.run(stoppable())
    except asyncio.CancelledError as exc:
        raise KeyboardInterrupt from exc


def _on_stop(stop: Callable[[], object]) -> None:
    """Have the first signal to stop do that; those that follow don't hurry what then ends."""
    loop = asyncio.get_running_loop()
    # One that is ignored, as with nohup, stays so.
    heard = [number for number in _STOPS if signal.getsignal(number) is not signal.SIG_IGN]

    def note() -> None:
        for number in heard:
            loop.add_signal_handler(number, lambda: None)
        stop()

    for number in heard:
        loop.add_signal_handler(number, note)
