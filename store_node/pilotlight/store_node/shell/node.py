"""A store node, put together: the core, what carries out its actions, and its doors."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import structlog

from pilotlight.process.ports import parse_address
from pilotlight.store_node.core import Evictor, NodeCore
from pilotlight.store_node.core.events import EpochSeen, ShutdownRequested
from pilotlight.store_node.doors.changes import Changes
from pilotlight.store_node.doors.reporter import NodeFacts, Reporter
from pilotlight.store_node.doors.rpc_server import RpcServer
from pilotlight.store_node.doors.service import StoreNodeService
from pilotlight.store_node.doors.session import Session, Voice
from pilotlight.store_node.protocol import Incarnation, NodeId, NodeReport, ReplicaId
from pilotlight.store_node.settings import NodeSettings
from pilotlight.store_node.shell.arena import PROGRESS_PERIOD_SECONDS, Arena
from pilotlight.store_node.shell.callbacks import watched_callbacks
from pilotlight.store_node.shell.executor import Executor
from pilotlight.store_node.shell.identity import NodeHome, new_incarnation
from pilotlight.store_node.shell.inbox import Inbox
from pilotlight.store_node.shell.journal import Journal
from pilotlight.store_node.shell.listening import listen_address
from pilotlight.store_node.shell.machine import Machine
from pilotlight.store_node.shell.metrics import Metrics
from pilotlight.store_node.shell.plugins import Engines
from pilotlight.store_node.shell.workforce import Workforce
from pilotlight.store_node.storage.catalogue import Catalogue
from pilotlight.store_node.storage.disks import DiskProbe
from pilotlight.store_node.storage.scanner import Scanner
from pilotlight.store_node.workers import WorkerPool

IDLE_SECONDS = 5.0
"""How long a node that stops waits for its workers and loads to end, requests having ended."""
LAST_WORD_SECONDS = 0.5
"""How long it then waits for the controller to be told."""
CALLS_SECONDS = 1.0
"""How long it then waits for calls to end."""

METRICS_PERIOD_SECONDS = 1.0

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What a node is made of, before it runs."""

    own: NodeHome
    catalogue: Catalogue
    engines: Engines
    evictor: Evictor
    machine: Machine
    workers: WorkerPool
    threads: int
    """Of a worker, per device."""
    probe: DiskProbe


class StoreNode:
    """One node, in the event loop of its process's main thread."""

    def __init__(self, settings: NodeSettings, parts: Parts) -> None:
        """Connect the parts; nothing runs yet.

        Raises:
            InvalidSettings, InvalidAddress: they can't be met.
        """
        self._settings = settings
        self._parts = parts
        self._listen = listen_address(settings)
        self._incarnation = new_incarnation()
        self._tasks = asyncio.TaskGroup()
        self._tasks_run = asyncio.Event()
        self._doors_are_open = asyncio.Event()
        self._inbox = Inbox(on_defect=self._note_defect)
        self.failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done, with an exception, where a defect keeps the node from going on."""
        self._changes = Changes()
        self._metrics = Metrics()
        self._journal = Journal(self._metrics)
        self._core = NodeCore(
            incarnation=self._incarnation,
            capacity=parts.machine.capacity,
            engines=parts.engines.versions,
            evictor=parts.evictor,
        )
        self._reporter = self._make_reporter()
        self._arena = Arena(
            parts.machine.pool,
            parts.machine.loader,
            parts.catalogue,
            tasks=self._tasks,
            post=self._inbox.post,
        )
        self._workforce = Workforce(
            parts.workers,
            threads=parts.threads,
            allow_custom_code=settings.allow_custom_code,
            tasks=self._tasks,
            post=self._inbox.post,
        )
        self._executor = Executor(
            self._core,
            self._inbox,
            arena=self._arena,
            workforce=self._workforce,
            changes=self._changes,
            journal=self._journal,
        )
        self._scanner = Scanner(
            parts.catalogue,
            probe=parts.probe,
            reporter=self._reporter,
            changes=self._changes,
            post=self._inbox.post,
            on_found=parts.workers.learn,
        )
        self._session = self._make_session()
        self._server = RpcServer(self._make_service())

    @property
    def node_id(self) -> NodeId:
        """Its name."""
        return self._parts.own.node_id

    @property
    def incarnation(self) -> Incarnation:
        """This run of it."""
        return self._incarnation

    @property
    def address(self) -> str:
        """Where it is to be called, once it runs."""
        return self._reporter.address

    @property
    def is_connected(self) -> bool:
        """Whether it is in a session with the controller."""
        return self._session is not None and self._session.is_connected

    def report(self) -> NodeReport:
        """Return everything that it would tell a controller now."""
        return self._reporter.report()

    def worker_pid(self, replica_id: ReplicaId) -> int | None:
        """Return the process that a replica runs in; None while it has none."""
        return self._workforce.pid(replica_id)

    def check_integrity(self) -> None:
        """Raise where the core contradicts itself or the pool."""
        self._core.check_integrity()
        self._parts.machine.pool.check_integrity()
        self._arena.check_accounts(self._core.reports.accounts())

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[None]:
        """Run until the block is left, then stop gracefully: nothing is left running."""
        async with AsyncExitStack() as stack:
            stack.enter_context(watched_callbacks(self._note_defect))
            stack.push_async_callback(self._parts.workers.close)
            await self._parts.workers.start()
            await stack.enter_async_context(self._background())
            self._arena.watch()
            stack.callback(self._arena.unwatch)
            stack.callback(self._executor.close)
            self._scanner.announce()
            await self._open_doors()
            stack.push_async_callback(self._server.stop, grace_seconds=CALLS_SECONDS)
            stack.callback(self._parts.probe.stop)
            stack.push_async_callback(self._wind_down)
            self._doors_are_open.set()
            log.info("node runs", node=self.node_id, address=self.address)
            yield

    @asynccontextmanager
    async def _background(self) -> AsyncGenerator[None]:
        """Run all tasks in one of their own, so that whoever runs the node keeps its exceptions."""
        background = asyncio.ensure_future(self._run_tasks())
        background.add_done_callback(self._note_end)
        try:
            await self._tasks_run.wait()
            yield
        finally:
            background.cancel()
            await asyncio.wait([background])

    async def _run_tasks(self) -> None:
        async with self._tasks as tasks:
            self._tasks_run.set()
            await self._doors_are_open.wait()
            if self._session is not None:
                tasks.create_task(self._session.run())
            if self._settings.metrics_listen:
                tasks.create_task(self._show_metrics())
            tasks.create_task(self._report_progress())
            tasks.create_task(self._prepare())
            tasks.create_task(self._rescan_for_ever())

    def _note_end(self, background: asyncio.Future[None]) -> None:
        if not background.cancelled() and (error := background.exception()) is not None:
            log.error("defect: the node can't go on", exc_info=error)
            self._note_defect(error)

    async def _open_doors(self) -> None:
        if self._settings.metrics_listen:
            self._metrics.serve(self._settings.metrics_listen)
        address = await self._server.start(self._listen)
        self._reporter.address = self._settings.advertise or str(address)

    async def _prepare(self) -> None:
        """Do what makes the first starts better known and faster, but need not be waited for."""
        if self._settings.probe:
            await self._scanner.measure()
        largest = max((copy.n_chunks for copy in self._parts.catalogue.copies()), default=0)
        await asyncio.to_thread(self._parts.machine.populate, largest)

    async def _rescan_for_ever(self) -> None:
        await self._scanner.rescan_for_ever(
            self._settings.rescan_seconds, is_measuring=self._settings.probe
        )

    async def _report_progress(self) -> None:
        while True:
            await asyncio.sleep(PROGRESS_PERIOD_SECONDS)
            self._arena.report_progress()

    async def _show_metrics(self) -> None:
        while True:
            self._metrics.show(self._reporter.heartbeat(), is_connected=self.is_connected)
            await asyncio.sleep(METRICS_PERIOD_SECONDS)

    async def _wind_down(self) -> None:
        """Stop all replicas and say so."""
        log.info("node stops", node=self.node_id)
        await self._server.say_stopping()
        if self.failed.done():
            return
        grace_seconds = self._settings.stop_grace_seconds
        try:
            async with asyncio.timeout(grace_seconds + IDLE_SECONDS):
                self._inbox.post(ShutdownRequested(grace_seconds=grace_seconds))
                await self._executor.wait_idle()
            if self._session is not None:
                async with asyncio.timeout(LAST_WORD_SECONDS):
                    await self._session.leave()
        except TimeoutError:
            log.warning("node stops with something left; it is killed", node=self.node_id)

    def _note_defect(self, error: BaseException) -> None:
        if not self.failed.done():
            self.failed.set_exception(error)

    def _make_reporter(self) -> Reporter:
        facts = NodeFacts(
            node_id=self.node_id,
            incarnation=self._incarnation,
            capacity=self._parts.machine.capacity,
            engines=self._parts.engines.versions,
        )
        return Reporter(self._core, facts, warm_count=self._parts.workers.warm_count)

    def _make_service(self) -> StoreNodeService:
        return StoreNodeService(
            self._core,
            self._executor,
            self._parts.catalogue,
            incarnation=self._incarnation,
            journal=self._journal,
            report=self.report,
            rescan=self._scanner.rescan,
        )

    def _make_session(self) -> Session | None:
        if not self._settings.controller:
            return None
        voice = Voice(
            hello=self._reporter.hello,
            report=self.report,
            changes=lambda: self._changes.take(self._core.reports),
            heartbeat=self._reporter.heartbeat,
            see_epoch=lambda epoch: self._inbox.post(EpochSeen(epoch=epoch)),
        )
        return Session(str(parse_address(self._settings.controller)), voice, self._changes)
