"""The node as a process: how it begins, what it says, and that nothing is left of it."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import signal
import socket
import sys
import urllib.request
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from pilotlight.store_node.protocol import ReplicaState, Tier
from pilotlight.store_node.testing.client import NodeClient
from pilotlight.store_node.testing.controller import FakeController
from pilotlight.store_node.testing.harness import make_checkpoint

pytestmark = pytest.mark.integration

NODE = (sys.executable, "-m", "pilotlight.scheduler.cli", "node")
SMALL = ("--device-memory", "64MiB", "--dram", "64MiB", "--log-format", "json")
TIMED = ("--engine", "timed")


async def spawn(home: Path, *arguments: str, command: tuple[str, ...] = NODE) -> Process:
    (home / "models").mkdir(parents=True, exist_ok=True)
    return await asyncio.create_subprocess_exec(
        *command,
        *SMALL,
        *arguments,
        stdout=PIPE,
        stderr=PIPE,
        env=os.environ | {"PILOTLIGHT_HOME": str(home)},
    )


@asynccontextmanager
async def running(home: Path, *arguments: str) -> AsyncGenerator[tuple[Process, FakeController]]:
    """Run a node and its controller; the node may end before the block is left."""
    controller = FakeController()
    await controller.start()
    process = await spawn(home, "--controller", controller.address, *arguments)
    try:
        await controller.wait_for(lambda: bool(controller.reports), seconds=20.0)
        yield process, controller
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()
        await controller.stop()


async def outcome_of(process: Process) -> tuple[int | None, list[str]]:
    """Wait for a process's end; return its exit code and what it said."""
    async with asyncio.timeout(20.0):
        _, stderr = await process.communicate()
    return process.returncode, stderr.decode().splitlines()


def events(lines: list[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in lines]


class Family:
    """All processes that a process, or one of those, has made."""

    def __init__(self, pid: int) -> None:
        self._pidfds = [os.pidfd_open(each) for each in _descendants(pid)]

    def __len__(self) -> int:
        return len(self._pidfds)

    async def wait_gone(self) -> None:
        """Wait until all have ended."""
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(10.0):
            for pidfd in self._pidfds:
                gone = asyncio.Event()
                loop.add_reader(pidfd, gone.set)
                await gone.wait()
                loop.remove_reader(pidfd)
                os.close(pidfd)


def _descendants(pid: int) -> set[int]:
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        parents[int(entry.name)] = int(fields[1])
    found: set[int] = set()
    while new := {each for each, parent in parents.items() if parent in found | {pid}} - found:
        found |= new
    return found


async def until(mark: bytes, lines: asyncio.StreamReader) -> AsyncGenerator[bytes]:
    """Yield lines up to the first that has the mark."""
    async for line in lines:
        yield line
        if mark in line:
            return


async def test_node_may_open_as_many_files_as_it_is_ever_allowed_to(tmp_path: Path) -> None:
    limited = ("sh", "-c", 'ulimit -Sn 256 && exec "$@"', "sh", *NODE)
    process = await spawn(tmp_path, *TIMED, command=limited)

    assert process.stderr is not None
    try:
        async with asyncio.timeout(20.0):
            said = [line async for line in until(b"node runs", process.stderr)]
        soft, hard = resource.prlimit(process.pid, resource.RLIMIT_NOFILE)
    finally:
        process.kill()
        await process.communicate()

    assert b"node runs" in said[-1]
    assert soft == hard


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 0), (signal.SIGTERM, 0)])
async def test_node_that_is_told_to_stop_leaves_nothing(
    tmp_path: Path, number: signal.Signals, code: int
) -> None:
    make_checkpoint(tmp_path / "models" / "llama")
    async with running(tmp_path, *TIMED) as (process, controller):
        report = controller.reports[0]
        async with NodeClient(report.address, report.incarnation) as client:
            assert await client.start("llama") is None
            await controller.wait_state("r1", ReplicaState.READY)
        family = Family(process.pid)

        process.send_signal(number)
        returned, lines = await outcome_of(process)

        assert returned == code
        assert len(family) >= 2  # A zygote and the replica's worker.
        await family.wait_gone()
        assert controller.replicas.popitem()[1].state is ReplicaState.STOPPED
        assert not [each for each in events(lines) if each["level"] in ("warning", "error")]


async def test_node_that_is_killed_takes_its_workers_along(tmp_path: Path) -> None:
    make_checkpoint(tmp_path / "models" / "llama")
    async with running(tmp_path, *TIMED) as (process, controller):
        report = controller.reports[0]
        async with NodeClient(report.address, report.incarnation) as client:
            assert await client.start("llama") is None
            await controller.wait_state("r1", ReplicaState.READY)
        family = Family(process.pid)

        process.kill()

        assert len(family) >= 2
        await family.wait_gone()


async def test_node_may_end_with_its_parent(tmp_path: Path) -> None:
    script = (
        "import subprocess, sys\n"
        "child = subprocess.Popen(sys.argv[1:])\n"
        "print(child.pid, flush=True)\n"
        "child.wait()\n"
    )
    controller = FakeController()
    await controller.start()
    parent = await spawn(
        tmp_path,
        "--exit-with-parent",
        "--controller",
        controller.address,
        *TIMED,
        command=(sys.executable, "-c", script, *NODE),
    )
    await controller.wait_for(lambda: bool(controller.reports), seconds=20.0)
    family = Family(parent.pid)

    parent.kill()

    assert len(family) >= 2
    await family.wait_gone()
    await parent.communicate()
    await controller.stop()


async def test_node_without_a_controller_says_so_once_and_goes_on(tmp_path: Path) -> None:
    controller = FakeController()
    address = await controller.start()
    await controller.stop()
    process = await spawn(tmp_path, "--controller", address, *TIMED)
    assert process.stderr is not None
    async with asyncio.timeout(20.0):
        while b"going on without" not in (line := await process.stderr.readline()):
            assert line, "the node ended"

    await controller.start(address)
    await controller.wait_for(lambda: bool(controller.reports), seconds=20.0)
    process.send_signal(signal.SIGTERM)
    code, lines = await outcome_of(process)
    await controller.stop()

    assert code == 0
    assert json.loads(line)["controller"] == address
    told = [each["event"] for each in events(lines)]
    assert told.count("controller reached") == 1
    assert "going on without the controller" not in told


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--models", "/no/such/directory"), "/no/such/directory"),
        (("--engine", "no-such-engine"), "no-such-engine"),
        (("--listen", "0.0.0.0:0"), "advertise"),
        (("--listen", "nonsense"), "HOST:PORT"),
        (("--controller", "nonsense"), "HOST:PORT"),
        (("--name", "../up"), "../up"),
        (("--device-memory", "1MiB"), "at least one chunk"),
    ],
)
async def test_what_can_not_work_is_one_line(
    tmp_path: Path, arguments: tuple[str, ...], said: str
) -> None:
    code, lines = await outcome_of(await spawn(tmp_path, *arguments))

    assert code == 1
    assert len(lines) == 1
    assert said in lines[0]


async def test_wrong_usage_is_told_from_failure(tmp_path: Path) -> None:
    code, lines = await outcome_of(await spawn(tmp_path, "--devices", "none"))

    assert code == 2
    assert "--devices" in lines[-1]


async def test_port_in_use_is_one_line(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        code, lines = await outcome_of(await spawn(tmp_path, *TIMED, "--listen", address))

    assert code == 1
    assert f"can't listen on {address}" in lines[-1]
    assert not any("Traceback" in line for line in lines)


async def test_name_in_use_is_one_line(tmp_path: Path) -> None:
    async with running(tmp_path, *TIMED, "--name", "one"):
        code, lines = await outcome_of(await spawn(tmp_path, *TIMED, "--name", "one"))

    assert code == 1
    assert len(lines) == 1
    assert "'one' is running" in lines[0]


async def test_metrics_are_served_where_asked_for(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"

    async with running(tmp_path, *TIMED, "--metrics", address):
        text = await asyncio.to_thread(read_url, f"http://{address}/metrics")

    assert 'pilotlight_chunk_pool_bytes{account="free"} 2.01326592e+08' in text  # 3 x 64 MiB


def read_url(url: str) -> str:
    with urllib.request.urlopen(url, timeout=5.0) as answer:
        data: bytes = answer.read()
    return data.decode()


async def test_real_model_answers_alike_from_ssd_and_from_dram(
    tmp_path: Path, make_tiny_llama: Any
) -> None:
    prompt = [5, 6, 7, 8]
    expected = make_tiny_llama(tmp_path / "models" / "llama", prompt=prompt, n_tokens=12)
    async with running(tmp_path, "--engine", "transformers") as (_, controller):
        report = controller.reports[0]
        async with NodeClient(report.address, report.incarnation) as client:
            for replica, tier in (("r1", Tier.SSD), ("r2", Tier.DRAM)):
                assert await client.start("llama", replica, engine="transformers") is None
                ready = await controller.wait_state(replica, ReplicaState.READY, seconds=60.0)
                text = await client.text(replica, replica, prompt=prompt, max_tokens=12)

                assert text == expected
                assert ready.outcome is not None
                assert ready.outcome.tier is tier
                assert await client.stop(replica) is None
                await controller.wait_state(replica, ReplicaState.STOPPED)
