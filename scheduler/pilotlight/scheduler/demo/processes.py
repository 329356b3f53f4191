"""The demo's cluster: a controller and store nodes, each a process."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import uuid
from asyncio.subprocess import Process
from collections.abc import Mapping
from pathlib import Path

from pilotlight.process import process_table
from pilotlight.scheduler.demo.errors import DemoFailed
from pilotlight.scheduler.demo.layout import DEVICES, DRAM_BYTES, HOLDINGS, models_of

START_SECONDS = 60.0
STOP_SECONDS = 15.0

_MARK = "DEMO_RUN"
"""An environment variable that the processes of one demo share, to find what is left of it."""


class DemoCluster:
    """Starts the processes and stops them; its folder is their home and has their logs."""

    def __init__(self, folder: Path, *, policy: str, threads: int) -> None:
        self._folder = folder
        self._policy = policy
        self._threads = threads
        self._run = uuid.uuid4().hex
        self._processes: dict[str, Process] = {}
        self.http_url = ""
        self.grpc_address = ""

    async def start(self) -> None:
        """Start the controller, then the nodes.

        Raises:
            DemoFailed: one of them ended at once; says where its log lies.
        """
        doors = self._folder / "controller.json"
        flags = ["--listen=127.0.0.1:0", "--http=127.0.0.1:0", f"--policy={self._policy}"]
        await self._spawn("controller", ["controller", f"--exit-with-parent={os.getpid()}", *flags])
        found = await self._wait_for(doors)
        self.http_url, self.grpc_address = f"http://{found['http']}", found["grpc"]
        for node in HOLDINGS:
            flags = [
                f"--name={node}",
                f"--controller={self.grpc_address}",
                f"--models={models_of(self._folder, node)}",
                f"--devices={DEVICES}",
                f"--dram={DRAM_BYTES}",
                f"--threads={self._threads}",
                "--engine=transformers",
            ]
            await self._spawn(node, ["node", f"--exit-with-parent={os.getpid()}", *flags])

    async def stop(self) -> None:
        """Stop nodes first, then the controller; what does not end is killed."""
        for name in [*HOLDINGS, "controller"]:
            process = self._processes.pop(name, None)
            if process is not None and process.returncode is None:
                await _stop(process)

    @property
    def mark(self) -> Mapping[str, str]:
        """What the environment of every process of this demo has, for `leftovers`."""
        return {_MARK: self._run}

    def node_pids(self) -> Mapping[str, int]:
        """Return the nodes' process ids."""
        return {n: p.pid for n, p in self._processes.items() if n != "controller"}

    def leftovers(self) -> list[int]:
        """Return the processes of this demo that still run, workers included."""
        return process_table.marked(f"{_MARK}={self._run}")

    def check(self) -> None:
        """Raise DemoFailed if a process has ended by itself."""
        for name, process in self._processes.items():
            if process.returncode is not None:
                raise DemoFailed(f"{name} has ended; its log: {self._log(name)}")

    async def _spawn(self, name: str, arguments: list[str]) -> None:
        command = [sys.executable, "-P", "-m", "pilotlight.scheduler.cli", *arguments]
        environ = {**os.environ, **self.mark, "PILOTLIGHT_HOME": str(self._folder)}
        with self._log(name).open("wb") as log:
            self._processes[name] = await asyncio.create_subprocess_exec(
                *command,
                env=environ,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # Ctrl-C is for the demo, which stops its processes in order.
                start_new_session=True,
            )

    def _log(self, name: str) -> Path:
        return self._folder / f"{name}.log"

    async def _wait_for(self, doors: Path) -> dict[str, str]:
        deadline = asyncio.get_running_loop().time() + START_SECONDS
        while (found := _read_doors(doors)) is None:
            self.check()
            if asyncio.get_running_loop().time() > deadline:
                log = self._log("controller")
                raise DemoFailed(f"the controller did not start; its log: {log}")
            await asyncio.sleep(0.05)
        return found


def _read_doors(file: Path) -> dict[str, str] | None:
    """Return what a controller says of itself; None before it does."""
    try:
        doors: dict[str, str] = json.loads(file.read_text())
    except FileNotFoundError:
        return None
    return doors


async def _stop(process: Process) -> None:
    process.terminate()
    try:
        async with asyncio.timeout(STOP_SECONDS):
            await process.wait()
    except TimeoutError:
        process.send_signal(signal.SIGKILL)
        await process.wait()
