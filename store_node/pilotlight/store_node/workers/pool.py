"""The workers of a node."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import structlog

from pilotlight.store_node.errors import UnknownEngine
from pilotlight.store_node.workers.death import WorkerDeath
from pilotlight.store_node.workers.nursery import Nursery
from pilotlight.store_node.workers.worker import Worker

# A warm worker that died for no reason that it told is replaced this much later.
_REPLACE_SECONDS = 1.0

# A start from DRAM is over by then. One that reads for longer has the disk to wait for, beside
# which a fork costs nothing; one that hangs keeps the next from a warm worker no longer.
# Measured on two processors: a fork of a zygote with torch takes 11 to 16 ms, and a start from
# DRAM (Llama, 25M) is ready in 17 ms (p90: 28) without one beside it, and in 24 (p90: 40) with.
_LONGEST_PAUSE_SECONDS = 1.0

# A first token is on its way to its reader when its start is over, and a fork would overtake it.
_FIRST_TOKEN_SECONDS = 0.05

_log = structlog.get_logger()


class WorkerPool:
    """Keeps warm workers of each engine, and hands them out.

    Theory of operation. A worker serves one replica and ends with it: nothing of
    one model is left for the next. Whoever takes one says when its start is over;
    until no start is under way, but no longer than a pause that is long enough
    for most, none is made in its place: a fork takes a processor away for about as
    long as all of a start from memory. One that is asked for while none is
    ready is made at once.

    Must be made, used and closed in one event loop, which runs in the process's
    main thread.
    """

    def __init__(
        self,
        *,
        engines: Mapping[str, str],
        threads: int,
        checkpoints: Sequence[Path],
        log_directory: Path,
        warm: int,
        memory_bytes: int | None = None,
    ) -> None:
        """Say what to keep.

        Args:
            engines: name to "module:class", as `installed_engines` returns it.
            threads: what libraries in workers take as their number of threads.
            checkpoints: directories of those that workers are made ready for.
            log_directory: where zygotes and workers leave what they print.
            warm: workers of each engine to keep ready.
            memory_bytes: what a worker may allocate beside its weights; None = no limit.
        """
        self._engines = dict(engines)
        self._checkpoints = dict.fromkeys(checkpoints)
        self._log_directory = log_directory
        self._n_warm = warm
        self._memory_bytes = memory_bytes
        self._environment = _environment(threads, custom_code=log_directory / "code")
        self._nurseries: dict[str, Nursery] = {}
        self._idle: dict[str, list[Worker]] = {name: [] for name in engines}
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._starting: set[Worker] = set()
        """Taken for starts that are under way."""
        self._pause_end: asyncio.TimerHandle | None = None
        self._is_closing = False
        self.on_change: Callable[[], None] | None = None
        """Called when `warm_count` may have changed."""

    async def start(self) -> None:
        """Start the zygotes; workers are warm some seconds later."""
        self._log_directory.mkdir(parents=True, exist_ok=True)
        for name, target in self._engines.items():
            nursery = Nursery(
                name,
                target,
                checkpoints=tuple(self._checkpoints),
                environment=self._environment,
                log_directory=self._log_directory,
                memory_bytes=self._memory_bytes,
                on_ready=partial(self._fill, name),
            )
            self._nurseries[name] = nursery
            nursery.start()

    def learn(self, checkpoints: Sequence[Path]) -> None:
        """Make workers that follow ready for checkpoints that were not known before."""
        new = [each for each in checkpoints if each not in self._checkpoints]
        if not new:
            return
        self._checkpoints |= dict.fromkeys(new)
        for nursery in self._nurseries.values():
            nursery.learn(new)

    async def close(self) -> None:
        """End all processes; return when none is left."""
        self._is_closing = True
        for timer in self._timers.values():
            timer.cancel()
        self._end_pause()
        for nursery in self._nurseries.values():
            await nursery.close()

    def warm_count(self) -> dict[str, int]:
        """Return how many workers of each engine wait for a replica."""
        return {
            name: sum(worker.is_warm for worker in workers) for name, workers in self._idle.items()
        }

    def take(self, engine: str) -> Worker:
        """Return a worker, warm if there is one; the caller sets its callbacks at once.

        The caller says by `start_ended` when what it takes the worker for is over.

        Raises:
            UnknownEngine: it is none of the pool's.
        """
        if engine not in self._nurseries:
            raise UnknownEngine(engine, installed=self._engines)
        worker = self._take_idle(engine) or self._nurseries[engine].spawn()
        if not self._starting and not self._is_closing:
            self._pause_for(_LONGEST_PAUSE_SECONDS)
        self._starting.add(worker)
        return worker

    def start_ended(self, worker: Worker) -> None:
        """Note that a worker's replica answers or has ended; saying it again is harmless."""
        if worker in self._starting:
            self._starting.remove(worker)
            if not self._starting and not self._is_closing:
                self._pause_for(_FIRST_TOKEN_SECONDS)

    def zygote_pids(self) -> dict[str, int]:
        """Return the pids of the zygotes that run."""
        pids = {name: nursery.zygote_pid for name, nursery in self._nurseries.items()}
        return {name: pid for name, pid in pids.items() if pid is not None}

    def _take_idle(self, engine: str) -> Worker | None:
        idle = [worker for worker in self._idle[engine] if not worker.is_dead]
        if not idle:
            return None
        # A warm one if there is one; else the one that was asked for first.
        worker = next((worker for worker in idle if worker.is_warm), idle[0])
        self._idle[engine].remove(worker)
        worker.on_warm = worker.on_death = None
        self._changed()
        return worker

    def _fill_all(self) -> None:
        """Make what is lacking, now that no start is under way, or none has waited for longer."""
        self._starting.clear()
        self._end_pause()
        for engine in self._nurseries:
            self._fill(engine)

    def _pause_for(self, seconds: float) -> None:
        self._end_pause()
        self._pause_end = asyncio.get_running_loop().call_later(seconds, self._fill_all)

    def _end_pause(self) -> None:
        if self._pause_end is not None:
            self._pause_end.cancel()
            self._pause_end = None

    def _fill(self, engine: str) -> None:
        """Make as many workers as are lacking, unless they would be in the way of a start."""
        idle = self._idle[engine]
        while len(idle) < self._n_warm and self._pause_end is None and not self._is_closing:
            worker = self._nurseries[engine].spawn()
            worker.on_warm = self._changed
            worker.on_death = partial(self._lost, engine, worker)
            idle.append(worker)

    def _lost(self, engine: str, worker: Worker, death: WorkerDeath) -> None:
        self._idle[engine].remove(worker)
        self._changed()
        if self._is_closing:
            return
        _log.warning("warm worker died", worker_id=worker.worker_id, reason=death.reason)
        if engine not in self._timers:
            loop = asyncio.get_running_loop()
            self._timers[engine] = loop.call_later(_REPLACE_SECONDS, self._replace, engine)

    def _replace(self, engine: str) -> None:
        del self._timers[engine]
        self._fill(engine)

    def _changed(self) -> None:
        if self.on_change is not None:
            self.on_change()


def _environment(threads: int, *, custom_code: Path) -> dict[str, str]:
    """Return the environment of zygotes, and by that of their workers."""
    return {
        **os.environ,
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
        # Starts its threads when it is imported, and a zygote must have none.
        "OPENBLAS_NUM_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",
        # Where the library copies code that comes with checkpoints, if it may run that.
        "HF_MODULES_CACHE": str(custom_code),
        "PYTHONUNBUFFERED": "1",
    }
