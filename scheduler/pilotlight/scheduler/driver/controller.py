"""A controller process: the driver, its doors, and the gateway."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import structlog
from prometheus_client import CollectorRegistry

from pilotlight.estimators import Estimator
from pilotlight.process.plugins import load_plugin
from pilotlight.process.ports import Address, parse_address, require_free
from pilotlight.scheduler.core import Core, CoreSettings
from pilotlight.scheduler.core.recording import Header
from pilotlight.scheduler.driver.control_plane import ControlPlane
from pilotlight.scheduler.driver.deployments import Deployments, read_keep_alive
from pilotlight.scheduler.driver.doors import serve_grpc
from pilotlight.scheduler.driver.driver import Clocks, Driver
from pilotlight.scheduler.driver.execution_files import ExecutionFiles
from pilotlight.scheduler.driver.leadership import become_leader, keep_leading
from pilotlight.scheduler.driver.local_link import LocalLink
from pilotlight.scheduler.driver.metrics import DriverMetrics
from pilotlight.scheduler.driver.planner import Planner
from pilotlight.scheduler.driver.recorder import Recorder
from pilotlight.scheduler.driver.registry import NodeRegistry
from pilotlight.scheduler.driver.restoring import restored_event
from pilotlight.scheduler.driver.settings import ControllerSettings, state_url
from pilotlight.scheduler.gateway.http.app import HttpApp
from pilotlight.scheduler.gateway.http.limits import HttpLimits
from pilotlight.scheduler.gateway.http.server import HttpServer
from pilotlight.scheduler.gateway.metrics import GatewayMetrics
from pilotlight.scheduler.gateway.routing.node_streams import NodeStreams
from pilotlight.scheduler.gateway.routing.router import Router
from pilotlight.scheduler.gateway.routing.router_metrics import RouterCollector
from pilotlight.scheduler.gateway.text.text_generator import TextGenerator
from pilotlight.scheduler.gateway.text.text_models import TextModels
from pilotlight.scheduler.policies import Policy, RandomNode, ServerlessLLM
from pilotlight.scheduler.store import StateStore, prepare, this_process
from pilotlight.store_node.protocol.channels import Channels

HTTP_STOP_SECONDS = 3.0

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Doors:
    """Where a running controller can be reached."""

    grpc: Address
    http: Address
    n_nodes_up: Callable[[], int]
    stop_taking: Callable[[], None]
    """Tells clients that the server stops, for who stops the nodes before it."""


class Controller:
    """Assembles one controller; `running` starts it and stops it.

    Raises:
        PluginError: the policy or the estimator can't be loaded.
        InvalidAddress: an address is none.
        InvalidModel: the default keep-alive is none.
    """

    def __init__(self, settings: ControllerSettings, *, home: Path) -> None:
        self._settings = settings
        self._home = home
        self._grpc_address = parse_address(settings.listen)
        self._http_address = parse_address(settings.http.listen)
        self._keep_alive = str(settings.keep_alive)
        read_keep_alive(self._keep_alive)
        self._policy: Policy = _make(load_plugin("pilotlight.policies", settings.policy))
        estimator: Estimator = _make(load_plugin("pilotlight.estimators", settings.estimator))
        self._core = Core(estimator=estimator, settings=_core_settings(settings))
        self._clocks = Clocks(monotonic=time.monotonic, wall=time.time)
        self._channels = Channels()
        self._registry = CollectorRegistry()
        self._files = ExecutionFiles(
            home / "execution_files", channels=self._channels, state=lambda: self._core.state
        )

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[Doors]:
        """Lead and serve until the block is left.

        Raises:
            AddressUnavailable: a port is in use.
            StateUnavailable: the SQL state can't be used.
            LeadershipLost: another controller has taken over; in an exception group.
        """
        async with AsyncExitStack() as stack:
            store, epoch = await self._lead(stack)
            driver = await self._drive(store, epoch, stack)
            router = await self._route(driver, stack)
            generator = await self._talk(router, stack)
            nodes = NodeRegistry(
                epoch=epoch,
                raise_epoch=store.raise_epoch,
                post=driver.post,
                channels=self._channels,
                heartbeat_seconds=self._settings.heartbeat_seconds,
            )
            users = self._control_plane(driver, store, generator)
            http = await self._serve_http(generator, stack)
            grpc = await serve_grpc(self._grpc_address, users=users, nodes=nodes, stack=stack)
            log.info("controller leads", epoch=epoch, grpc=str(grpc), http=str(http))
            yield Doors(
                grpc=grpc,
                http=http,
                n_nodes_up=self._n_nodes_up,
                stop_taking=router.stop_taking,
            )

    async def _lead(self, stack: AsyncExitStack) -> tuple[StateStore, int]:
        # Before waiting for the lease: what can't work should be said at once.
        require_free(self._grpc_address)
        require_free(self._http_address)
        url = state_url(self._settings, self._home)
        await asyncio.to_thread(prepare, url)
        store = StateStore(url)
        await store.open()
        stack.push_async_callback(store.close)
        epoch = await become_leader(
            store, holder=this_process(), lease_seconds=self._settings.lease_seconds
        )
        stack.push_async_callback(store.release)
        stack.push_async_callback(self._channels.close)
        return store, epoch

    async def _drive(self, store: StateStore, epoch: int, stack: AsyncExitStack) -> Driver:
        recorder = Recorder(
            self._home / "recording",
            header=self._header,
            file_bytes=self._settings.recording.file_bytes,
            kept_files=self._settings.recording.kept_files,
        )
        stack.callback(recorder.close)
        metrics = DriverMetrics(self._registry)
        tasks = await stack.enter_async_context(asyncio.TaskGroup())
        driver = Driver(
            self._core,
            planner=Planner(
                self._policy,
                fallback=RandomNode()
                if isinstance(self._policy, ServerlessLLM)
                else ServerlessLLM(),
                metrics=metrics,
                clock=self._clocks.monotonic,
            ),
            store=store,
            recorder=recorder,
            channels=self._channels,
            clocks=self._clocks,
            tasks=tasks,
            metrics=metrics,
        )
        stack.callback(driver.close)
        leading = tasks.create_task(self._keep_leading(store, driver))
        stack.callback(leading.cancel)
        driver.post(restored_event(epoch, await store.load_state()))
        self._files.keep_only(self._core.state.models.values())
        return driver

    async def _keep_leading(self, store: StateStore, driver: Driver) -> None:
        try:
            await keep_leading(store, lease_seconds=self._settings.lease_seconds)
        finally:
            # At once: what comes in while the doors are being closed is not for this one to do.
            driver.close()

    async def _route(self, driver: Driver, stack: AsyncExitStack) -> Router:
        router = await stack.enter_async_context(
            Router(
                LocalLink(driver, self._files),
                streams=NodeStreams(self._channels),
                clock=self._clocks.monotonic,
            )
        )
        driver.subscribers.append(router.apply)
        self._registry.register(RouterCollector(router))
        return router

    async def _talk(self, router: Router, stack: AsyncExitStack) -> TextGenerator:
        models = await stack.enter_async_context(TextModels())
        return TextGenerator(
            router, models=models, metrics=GatewayMetrics(self._registry), rng=random.Random()
        )

    def _control_plane(
        self, driver: Driver, store: StateStore, generator: TextGenerator
    ) -> ControlPlane:
        deployments = Deployments(
            driver,
            store=store,
            channels=self._channels,
            files=self._files,
            keep_alive=self._keep_alive,
            queue_limit=self._settings.queue_limit,
            wall=self._clocks.wall,
        )
        return ControlPlane(
            driver,
            deployments=deployments,
            store=store,
            generator=generator,
            clock=self._clocks.monotonic,
        )

    async def _serve_http(self, generator: TextGenerator, stack: AsyncExitStack) -> Address:
        limits = HttpLimits(
            body_bytes=self._settings.http.body_bytes,
            stall_seconds=self._settings.http.stall_seconds,
        )
        app = HttpApp(generator, readiness=self._why_not_ready, limits=limits)
        server = HttpServer(app, self._http_address)
        await server.start()
        stack.push_async_callback(server.stop, grace_seconds=HTTP_STOP_SECONDS)
        assert server.address is not None, "it listens"
        return server.address

    def _n_nodes_up(self) -> int:
        return sum(node.is_up for node in self._core.state.nodes.values())

    def _why_not_ready(self) -> str | None:
        return None if self._n_nodes_up() else "no node is connected"

    def _header(self) -> Header:
        is_new = self._core.state.version == 0
        return Header(
            package_version=version("pilotlight"),
            policy=self._policy.name,
            began_at=self._clocks.wall(),
            began_now=self._clocks.monotonic(),
            state=None if is_new else self._core.state,
            lessons=None if is_new else self._core.estimator.lessons(),
        )


def _make(plugin: Any) -> Any:
    """Return an instance: entry points name classes, or functions that make one."""
    return plugin()


def _core_settings(settings: ControllerSettings) -> CoreSettings:
    return CoreSettings(
        reconnect_grace_seconds=settings.reconnect_grace_seconds,
        restore_grace_seconds=settings.restore_grace_seconds,
        start_timeout_seconds=settings.start_timeout_seconds,
    )
