"""A node as a process of its own, with the controller it reports to and a client of it."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from asyncio.subprocess import DEVNULL, Process
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pilotlight.store_node.protocol import NodeUpdate, ReplicaState
from pilotlight.store_node.testing.client import NodeClient
from pilotlight.store_node.testing.controller import FakeController

_NODE = (sys.executable, "-m", "pilotlight.scheduler.cli", "node")
_START_SECONDS = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Footprint:
    """What a process holds of the machine."""

    descriptors: int
    threads: int
    resident_bytes: int
    """Of its own memory; that of files and of chunks, which are shared, does not count."""

    @classmethod
    def of(cls, pid: int) -> Footprint:
        """Look at a process."""
        status = Path(f"/proc/{pid}/status").read_text()
        numbers = {name: int(value) for name, value in re.findall(r"(\w+):\s+(\d+)", status)}
        return cls(
            descriptors=len(os.listdir(f"/proc/{pid}/fd")),
            threads=numbers["Threads"],
            resident_bytes=numbers["RssAnon"] << 10,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeProcess:
    """A running node; it is killed with all its workers when the block is left."""

    process: Process
    controller: FakeController
    client: NodeClient

    @classmethod
    @asynccontextmanager
    async def running(cls, home: Path, *arguments: str) -> AsyncGenerator[NodeProcess]:
        """Run `pilotlight node` with these arguments; checkpoints lie in `models` below `home`."""
        async with AsyncExitStack() as stack:
            controller = FakeController(heartbeat_seconds=0.1)
            await controller.start()
            stack.push_async_callback(controller.stop)
            log = stack.enter_context((home / "node.log").open("wb"))
            process = await asyncio.create_subprocess_exec(
                *_NODE,
                *("--controller", controller.address, *arguments),
                stdout=DEVNULL,
                stderr=log,
                env=os.environ | {"PILOTLIGHT_HOME": str(home)},
            )
            stack.push_async_callback(_kill, process)
            await controller.wait_for(lambda: bool(controller.reports), seconds=_START_SECONDS)
            [report] = controller.reports
            client = NodeClient(report.address, report.incarnation)
            await stack.enter_async_context(client)
            yield cls(process=process, controller=controller, client=client)

    async def run(self, reference: str, replica: str, **options: Any) -> None:
        """Bring a replica up to READY."""
        refusal = await self.client.start(reference, replica, **options)
        assert refusal is None, refusal
        await self.controller.wait_state(replica, ReplicaState.READY)

    async def end(self, replica: str) -> None:
        """Stop a replica and wait for its end."""
        assert await self.client.stop(replica) is None
        await self.controller.wait_state(replica, ReplicaState.STOPPED)

    async def wait_warm(self, n_workers: int, *, engine: str) -> None:
        """Wait until so many workers are ready for a start."""

        def is_so() -> bool:
            return self.controller.updates[-1].warm_workers.get(engine) == n_workers

        self.controller.updates[:] = [NodeUpdate()]
        await self.controller.wait_for(is_so, seconds=_START_SECONDS)

    def descendants(self) -> list[int]:
        """Return the processes that it, or one of those, has made: zygotes first."""
        return _descendants(self.process.pid)


async def _kill(process: Process) -> None:
    if process.returncode is None:
        process.kill()
    await process.wait()


def _descendants(pid: int) -> list[int]:
    children = [
        int(child)
        for task in Path(f"/proc/{pid}/task").iterdir()
        for child in (task / "children").read_text().split()
    ]
    return children + [each for child in children for each in _descendants(child)]
