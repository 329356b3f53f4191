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

_log = structlog.get_logger()


class WorkerPool:
    """Keeps warm workers of each engine, and hands them out.

    Must be made, used and closed in one event loop, which runs in the process's
    main thread.
    """

    def __init__(
        self,
        *,
        engines: Mapping[str, str],
        threads: int,
        architectures: Sequence[str],
        log_directory: Path,
        warm: int,
    ) -> None:
        """Say what to keep.

        Args:
            engines: name to "module:class", as `installed_engines` returns it.
            threads: what libraries in workers take as their number of threads.
            architectures: model types that workers are prepared for.
            log_directory: where zygotes and workers leave what they print.
            warm: workers of each engine to keep ready.
        """
        self._engines = dict(engines)
        self._architectures = tuple(architectures)
        self._log_directory = log_directory
        self._n_warm = warm
        self._environment = _environment(threads)
        self._nurseries: dict[str, Nursery] = {}
        self._idle: dict[str, list[Worker]] = {name: [] for name in engines}
        self._timers: dict[str, asyncio.TimerHandle] = {}
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
                architectures=self._architectures,
                environment=self._environment,
                log_directory=self._log_directory,
                on_ready=partial(self._fill, name),
            )
            self._nurseries[name] = nursery
            nursery.start()

    async def close(self) -> None:
        """End all processes; return when none is left."""
        self._is_closing = True
        for timer in self._timers.values():
            timer.cancel()
        for nursery in self._nurseries.values():
            await nursery.close()

    def warm_count(self) -> dict[str, int]:
        """Return how many workers of each engine wait for a replica."""
        return {
            name: sum(worker.is_warm for worker in workers) for name, workers in self._idle.items()
        }

    def take(self, engine: str) -> Worker:
        """Return a worker, warm if there is one; the caller sets its callbacks at once.

        Raises:
            UnknownEngine: it is none of the pool's.
        """
        if engine not in self._nurseries:
            raise UnknownEngine(engine, installed=self._engines)
        idle = [worker for worker in self._idle[engine] if not worker.is_dead]
        if not idle:
            return self._nurseries[engine].spawn()
        # A warm one if there is one; else the one that was asked for first.
        worker = next((worker for worker in idle if worker.is_warm), idle[0])
        self._idle[engine].remove(worker)
        worker.on_warm = worker.on_death = None
        self._fill(engine)
        self._changed()
        return worker

    def zygote_pids(self) -> dict[str, int]:
        """Return the pids of the zygotes that run."""
        pids = {name: nursery.zygote_pid for name, nursery in self._nurseries.items()}
        return {name: pid for name, pid in pids.items() if pid is not None}

    def _fill(self, engine: str) -> None:
        idle = self._idle[engine]
        while len(idle) < self._n_warm and not self._is_closing:
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


def _environment(threads: int) -> dict[str, str]:
    """Return the environment of zygotes, and by that of their workers."""
    return {
        **os.environ,
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
        # Starts its threads when it is imported, and a zygote must have none.
        "OPENBLAS_NUM_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",
        "PYTHONUNBUFFERED": "1",
    }
