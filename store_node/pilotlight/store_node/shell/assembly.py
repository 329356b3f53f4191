"""Makes a node from its settings."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from pilotlight.native_loader.disks.disk_settings import KnownDisks
from pilotlight.process.home import home_directory
from pilotlight.process.quantities import format_bytes
from pilotlight.store_node.errors import InvalidSettings
from pilotlight.store_node.settings import NodeSettings, Sizes, sizes_of
from pilotlight.store_node.shell.identity import NodeHome
from pilotlight.store_node.shell.machine import Machine
from pilotlight.store_node.shell.node import Parts, StoreNode
from pilotlight.store_node.shell.plugins import Engines, find_engines, find_evictor
from pilotlight.store_node.storage.catalogue import Catalogue
from pilotlight.store_node.storage.disks import DiskProbe
from pilotlight.store_node.workers import WorkerPool

# With less, no worker could so much as say what it lacks.
_LEAST_WORKER_BYTES = 1 << 20


@asynccontextmanager
async def running_node(
    settings: NodeSettings, environ: Mapping[str, str]
) -> AsyncGenerator[StoreNode]:
    """Run a node until the block is left.

    In the event loop of the process's main thread, since the kernel ends workers
    together with the thread that made them.

    Raises:
        StoreNodeError, ProcessError, LoaderError: it can't run as it is configured.
    """
    home = settings.home or home_directory(environ)
    engines = find_engines(settings.engines)
    evictor = find_evictor(settings.evictor)
    async with AsyncExitStack() as stack:
        own = NodeHome.claim(home, settings.name)
        stack.callback(own.release)
        catalogue = Catalogue(_roots(settings, home))
        catalogue.adopt(await asyncio.to_thread(catalogue.scan))
        sizes = sizes_of(settings)
        disks = KnownDisks(home / "disks")
        machine = Machine(
            sizes,
            n_devices=settings.devices,
            loader_threads=settings.loader_threads,
            disks=disks,
            checksums=home / "checksums",
        )
        stack.callback(machine.close)
        parts = Parts(
            own=own,
            catalogue=catalogue,
            engines=engines,
            evictor=evictor,
            machine=machine,
            workers=_workers(settings, sizes, own, catalogue, engines),
            threads=sizes.threads,
            probe=DiskProbe(home / "channels", disks),
        )
        node = StoreNode(settings, parts)
        await stack.enter_async_context(node.running())
        yield node


def _roots(settings: NodeSettings, home: Path) -> tuple[Path, ...]:
    if not settings.models:
        (home / "models").mkdir(parents=True, exist_ok=True)
        return (home / "models",)
    for root in settings.models:
        if not root.is_dir():
            raise InvalidSettings(f"{root} is no directory; models are looked for below it")
    return settings.models


def _workers(
    settings: NodeSettings, sizes: Sizes, own: NodeHome, catalogue: Catalogue, engines: Engines
) -> WorkerPool:
    return WorkerPool(
        engines=engines.targets,
        threads=sizes.threads,
        checkpoints=catalogue.usable_directories(),
        log_directory=own.path / "workers",
        warm=settings.warm_workers,
        memory_bytes=_worker_memory_bytes(settings),
    )


def _worker_memory_bytes(settings: NodeSettings) -> int | None:
    limit_bytes = settings.worker_memory_bytes
    if limit_bytes is not None and limit_bytes < _LEAST_WORKER_BYTES:
        raise InvalidSettings(
            f"worker_memory_bytes must be {format_bytes(_LEAST_WORKER_BYTES)} or more, not"
            f" {format_bytes(limit_bytes)}; without it there is no limit"
        )
    return limit_bytes
