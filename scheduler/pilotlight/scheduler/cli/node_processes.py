"""Store nodes as child processes of `up`."""

from __future__ import annotations

import asyncio
import os
import sys
from asyncio.subprocess import Process
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pilotlight.process.commands import CommandError
from pilotlight.process.ports import Address

if TYPE_CHECKING:
    from pilotlight.scheduler.driver.controller import Doors

STOP_SECONDS = 10.0
JOIN_SECONDS = 60.0
JOIN_POLL_SECONDS = 0.05


class NodeProcesses:
    """Starts nodes that end with this process, and stops them."""

    def __init__(
        self,
        *,
        home: Path,
        controller: Address,
        roots: Sequence[Path],
        devices: int | None,
        dram_bytes: int | None,
        n_nodes: int,
    ) -> None:
        self._home = home
        self._arguments = [f"--controller={controller}", f"--exit-with-parent={os.getpid()}"]
        self._arguments += [f"--nodes-here={max(n_nodes, 1)}"]
        self._arguments += [f"--models={root}" for root in roots]
        self._arguments += [f"--devices={devices}"] if devices else []
        self._arguments += [f"--dram={dram_bytes}"] if dram_bytes is not None else []
        self._processes: dict[str, Process] = {}

    async def start(self, name: str) -> None:
        """Start one node; it joins when it is ready."""
        command = [sys.executable, "-P", "-m", "pilotlight.scheduler.cli", "node", f"--name={name}"]
        self._processes[name] = await asyncio.create_subprocess_exec(
            *command,
            *self._arguments,
            # Each has a folder of its own below that, by its name.
            env=os.environ | {"PILOTLIGHT_HOME": str(self._home)},
            # Ctrl-C is for the parent, which stops its nodes in order.
            start_new_session=True,
        )

    async def wait_joined(self, doors: Doors) -> None:
        """Wait until all nodes have joined.

        Raises:
            CommandError: one has ended, or they take too long; their logs say why.
        """
        deadline = asyncio.get_running_loop().time() + JOIN_SECONDS
        while doors.n_nodes_up() < len(self._processes):
            for name, process in self._processes.items():
                if process.returncode is not None:
                    raise CommandError(f"{name} has ended with exit code {process.returncode}")
            if asyncio.get_running_loop().time() > deadline:
                raise CommandError(f"not all nodes have joined within {JOIN_SECONDS:g} s")
            await asyncio.sleep(JOIN_POLL_SECONDS)

    async def stop(self) -> None:
        """End all nodes and wait for that; one that does not end is killed."""
        running = [p for p in self._processes.values() if p.returncode is None]
        for process in running:
            process.terminate()
        await asyncio.gather(*map(_wait, running))
        self._processes.clear()


async def _wait(process: Process) -> None:
    try:
        async with asyncio.timeout(STOP_SECONDS):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()
