"""The demo from beginning to end."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from rich.console import Console

from pilotlight.scheduler.demo import report
from pilotlight.scheduler.demo.checkpoints import RECIPES, make_checkpoints
from pilotlight.scheduler.demo.comparison import Comparison, Round
from pilotlight.scheduler.demo.control import Control
from pilotlight.scheduler.demo.errors import DemoFailed
from pilotlight.scheduler.demo.layout import DEVICES, HOLDINGS, link_checkpoints, only_run
from pilotlight.scheduler.demo.processes import DemoCluster
from pilotlight.scheduler.demo.requests import REQUEST_SECONDS, Answer
from pilotlight.scheduler.demo.screen import Screen
from pilotlight.scheduler.demo.traffic import run_traffic
from pilotlight.scheduler.protocol import control_plane_pb2 as pb

KEEP_ALIVE = "2s"
"""While traffic runs: short, so that replicas make room for others."""

SEED = 8

TABLE_COLUMNS = 120

INTERRUPTED = 130


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How the demo is to run."""

    directory: Path
    json_file: Path | None
    policy: str
    repetitions: int
    bursts: int


def run_demo(plan: Plan) -> int:
    """Run the demo; return its exit code. Nothing is left running, whatever happens.

    Raises:
        DemoFailed: with the reason and where to look.
    """
    console = _console()
    if plan.json_file is not None and not os.access(plan.json_file.parent, os.W_OK):
        raise DemoFailed(f"{plan.json_file} can't be written")
    checkpoints = plan.directory / "checkpoints"
    threads = max(1, (os.cpu_count() or 1) // DEVICES)
    cluster = DemoCluster(plan.directory / "run", policy=plan.policy, threads=threads)
    try:
        with only_run(plan.directory):
            make_checkpoints(checkpoints, say=console.print)
            link_checkpoints(checkpoints, plan.directory / "run")
            starts, rounds = asyncio.run(_run(plan, cluster, console, checkpoints, threads))
    except (KeyboardInterrupt, asyncio.CancelledError):
        console.print("interrupted; everything is stopped")
        return INTERRUPTED
    except BaseExceptionGroup as group:
        raise group.exceptions[0] from group
    _show(console, plan, starts, rounds, leftovers=len(cluster.leftovers()))
    return 0


async def _run(
    plan: Plan, cluster: DemoCluster, console: Console, checkpoints: Path, threads: int
) -> tuple[list[pb.Start], list[Round]]:
    task = asyncio.current_task()
    assert task is not None, "a coroutine runs in a task"
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    models = [recipe.name for recipe in RECIPES]
    async with AsyncExitStack() as stack:
        stack.push_async_callback(cluster.stop)
        console.print(f"starting a controller and {len(HOLDINGS)} store nodes")
        await cluster.start()
        control = Control(cluster.grpc_address)
        stack.push_async_callback(control.close)
        await control.wait_nodes(len(HOLDINGS), workers_each=DEVICES)
        client = await stack.enter_async_context(_client(cluster.http_url))
        for model in models:
            await control.deploy(model, keep_alive=KEEP_ALIVE)
        await _traffic(plan, control, client, console, models)
        cluster.check()
        starts = await control.starts()
        for model in models:
            await control.deploy(model, keep_alive="0s")
        rounds = await _compare(plan, cluster, control, client, console, checkpoints, threads)
        return starts, rounds


async def _traffic(
    plan: Plan, control: Control, client: httpx.AsyncClient, console: Console, models: list[str]
) -> None:
    answers: list[Answer] = []
    async with Screen(console, control) as screen:
        await run_traffic(
            client,
            models,
            bursts=plan.bursts,
            seed=SEED,
            say=screen.say,
            collect=answers.append,
        )
    failed = [answer for answer in answers if answer.error]
    console.print(f"{len(answers)} requests answered, {len(failed)} failed")
    if failed:
        raise DemoFailed(f"a request for {failed[0].model} failed: {failed[0].error}")


async def _compare(
    plan: Plan,
    cluster: DemoCluster,
    control: Control,
    client: httpx.AsyncClient,
    console: Console,
    checkpoints: Path,
    threads: int,
) -> list[Round]:
    models = [recipe.name for recipe in RECIPES]
    total = plan.repetitions * len(models)
    done: list[Round] = []

    def progress(r: Round) -> None:
        done.append(r)
        console.print(
            f"[{len(done)}/{total}] {r.model}: SSD {r.ssd_seconds:.3f} s,"
            f" DRAM {r.dram_seconds:.3f} s, from_pretrained {r.fresh_seconds:.2f} s,"
            f" with imports done {r.imported_seconds:.3f} s",
            highlight=False,
        )

    console.print(f"comparing with from_pretrained, {threads} thread(s) each")
    async with Comparison(
        client,
        control,
        checkpoints=checkpoints,
        node_pids=cluster.node_pids(),
        threads=threads,
        mark=cluster.mark,
    ) as comparison:
        return await comparison.run(models, repetitions=plan.repetitions, progress=progress)


def _console() -> Console:
    """Return a console wide enough for the tables, which are worse when they fold."""
    console = Console()
    console.width = max(console.width, TABLE_COLUMNS)
    return console


def _client(url: str) -> httpx.AsyncClient:
    limits = httpx.Limits(max_connections=64)
    return httpx.AsyncClient(base_url=url, timeout=REQUEST_SECONDS, limits=limits, trust_env=False)


def _show(
    console: Console, plan: Plan, starts: list[pb.Start], rounds: list[Round], *, leftovers: int
) -> None:
    console.print(report.starts_table(starts))
    console.print(report.comparison_table(rounds))
    found: dict[str, Any] = report.figures(starts, rounds, leftover_processes=leftovers)
    for name, value in found["figures"].items():
        console.print(f"{name:>26}: {value}", highlight=False)
    if plan.json_file is not None:
        plan.json_file.write_text(json.dumps(found, indent=1) + "\n")
