"""Carries out what the core wants of workers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path

from pilotlight.native_loader import WeightLayout
from pilotlight.store_node.core import events
from pilotlight.store_node.engines.engine import Emission, EngineSetup, Work, WorkRefused
from pilotlight.store_node.errors import EngineFailed, WorkerDied
from pilotlight.store_node.protocol import ReplicaId, ReplicaSpec, RequestId
from pilotlight.store_node.protocol.refusals import ENGINE_CODES, ErrorCode
from pilotlight.store_node.workers import Worker, WorkerDeath, WorkerPool

# The worker ends, and its death says why.
_GIVEN_UP = (EngineFailed, WorkerDied)
_REJECTIONS = {"too_long": ErrorCode.CONTEXT_EXCEEDED, "full": ErrorCode.NO_SLOT}


class Workforce:
    """Workers by the replica that each serves."""

    def __init__(
        self,
        pool: WorkerPool,
        *,
        threads: int,
        allow_custom_code: bool,
        tasks: asyncio.TaskGroup,
        post: Callable[[events.Event], None],
    ) -> None:
        self._pool = pool
        self._threads = threads
        self._allow_custom_code = allow_custom_code
        self._tasks = tasks
        self._post = post
        self._workers: dict[ReplicaId, Worker] = {}

    def pid(self, replica_id: ReplicaId) -> int | None:
        """Return the process of a replica's worker; None while it has none."""
        worker = self._workers.get(replica_id)
        return worker.pid if worker is not None else None

    def take(self, spec: ReplicaSpec, directory: Path, *, adapter: Path | None) -> None:
        """Give a replica a worker and prepare it."""
        replica_id = spec.replica_id
        worker = self._pool.take(spec.engine)
        self._workers[replica_id] = worker

        def on_emissions(emissions: Sequence[Emission]) -> None:
            self._post(events.TokensEmitted(replica_id=replica_id, emissions=tuple(emissions)))

        worker.on_emissions = on_emissions
        worker.on_death = lambda death: self._note_death(replica_id, death)
        threads = self._threads * spec.devices
        setup = EngineSetup(
            spec=spec,
            directory=directory,
            threads=threads,
            adapter=adapter,
            allow_custom_code=self._allow_custom_code,
        )
        self._tasks.create_task(self._prepare(replica_id, worker, setup))

    def start_ended(self, replica_id: ReplicaId) -> None:
        """Note that a replica answers, or never will."""
        worker = self._workers.get(replica_id)
        if worker is not None:
            self._pool.start_ended(worker)

    def bind(self, replica_id: ReplicaId, fd: int, layout: WeightLayout) -> None:
        """Have a replica's worker attach its weights."""
        worker = self._workers.get(replica_id)
        if worker is not None:
            self._tasks.create_task(self._bind(replica_id, worker, fd, layout))

    def kill(self, replica_id: ReplicaId) -> None:
        """End a replica's worker."""
        worker = self._workers.get(replica_id)
        if worker is not None:
            worker.kill()

    def admit(self, replica_id: ReplicaId, work: Work) -> None:
        """Hand an attempt to a replica's engine."""
        worker = self._workers.get(replica_id)
        if worker is not None:
            self._tasks.create_task(self._admit(worker, work))

    def cancel(self, replica_id: ReplicaId, request_id: RequestId) -> None:
        """Have a replica's engine forget a request, after what it was told before."""
        worker = self._workers.get(replica_id)
        if worker is not None:
            # A task takes its first step after what was scheduled before it: an admission that
            # was asked for in this turn of the loop has then been written.
            asyncio.get_running_loop().call_soon(worker.cancel, request_id)

    async def _prepare(self, replica_id: ReplicaId, worker: Worker, setup: EngineSetup) -> None:
        try:
            seconds = await worker.prepare(setup)
        except _GIVEN_UP:
            return
        self._post(events.WorkerPrepared(replica_id=replica_id, busy_seconds=seconds))

    async def _bind(
        self, replica_id: ReplicaId, worker: Worker, fd: int, layout: WeightLayout
    ) -> None:
        try:
            bound = await worker.bind(fd, layout)
        except _GIVEN_UP:
            return
        self._post(events.WorkerBound(replica_id=replica_id, offer=bound.offer))

    async def _admit(self, worker: Worker, work: Work) -> None:
        try:
            await worker.admit(work)
        except WorkRefused as exc:
            self._post(
                events.WorkRejected(
                    request_id=work.request_id,
                    attempt=work.attempt,
                    code=_REJECTIONS.get(exc.code, ErrorCode.INVALID_REQUEST),
                    message=str(exc),
                )
            )
        except _GIVEN_UP:
            return

    def _note_death(self, replica_id: ReplicaId, death: WorkerDeath) -> None:
        self._pool.start_ended(self._workers.pop(replica_id))
        code = death.code or ErrorCode.WORKER_DIED
        self._post(
            events.WorkerDied(
                replica_id=replica_id,
                reason=death.reason,
                code=code,
                # What an engine can't run is said in a line; where that was found helps nobody.
                log_tail="" if code in ENGINE_CODES else death.log_tail,
            )
        )
