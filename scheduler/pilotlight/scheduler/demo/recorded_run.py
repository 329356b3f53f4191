"""A scenario's requests on the demo's cluster, and what was recorded of them.

Theory of operation. A simulation can be checked against reality where both serve
the same requests. This sends a scenario's requests to real nodes, each at its
time, and keeps two things: what clients saw of each (`requests.jsonl`), and what
the controller recorded (`recording/`).
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import httpx
import msgspec

from pilotlight.process.progress import show_steps
from pilotlight.scheduler.core.model import Model
from pilotlight.scheduler.demo.checkpoints import RECIPES, make_checkpoints
from pilotlight.scheduler.demo.control import Control
from pilotlight.scheduler.demo.errors import DemoFailed
from pilotlight.scheduler.demo.layout import DEVICES, HOLDINGS, link_checkpoints, only_run
from pilotlight.scheduler.demo.processes import DemoCluster
from pilotlight.scheduler.demo.replay import replay
from pilotlight.scheduler.demo.requests import REQUEST_SECONDS
from pilotlight.scheduler.simulation.arrivals import Arrival
from pilotlight.scheduler.simulation.scenarios import Scenario
from pilotlight.scheduler.simulation.validation import (
    RECORDING_FOLDER,
    REQUESTS_FILE,
    ReplayedRequest,
)

INTERRUPTED = 130


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedRun:
    """What is to be run, and where what comes of it is kept."""

    directory: Path
    """Of the demo."""
    into: Path
    scenario: Scenario
    seed: int
    policy: str


def record(run: RecordedRun, *, say: Callable[[str], None]) -> int:
    """Run it; return the exit code. Nothing is left running, whatever happens.

    Raises:
        DemoFailed: with the reason and where to look.
        SchedulerError: the scenario can't be built.
    """
    built = run.scenario.build(run.seed)
    _require_recipes(built.models)
    arrivals = list(built.arrivals)
    if run.into.exists():
        raise DemoFailed(f"{run.into} is there already; name another folder")
    folder = run.directory / "run"
    threads = max(1, (os.cpu_count() or 1) // DEVICES)
    cluster = DemoCluster(folder, policy=run.policy, threads=threads)
    checkpoints = run.directory / "checkpoints"
    try:
        with only_run(run.directory):
            make_checkpoints(checkpoints, say=say)
            link_checkpoints(checkpoints, folder)
            answered = asyncio.run(_run(run, cluster, built.models, arrivals))
            _keep(run.into, folder, answered)
    except (KeyboardInterrupt, asyncio.CancelledError):
        say("interrupted; everything is stopped")
        return INTERRUPTED
    except BaseExceptionGroup as group:
        raise group.exceptions[0] from group
    failed = sum(bool(each.error) for each in answered)
    say(f"{len(answered)} requests answered, {failed} failed; kept in {run.into}")
    return 0


async def _run(
    run: RecordedRun, cluster: DemoCluster, models: Sequence[Model], arrivals: Sequence[Arrival]
) -> list[ReplayedRequest]:
    task = asyncio.current_task()
    assert task is not None, "a coroutine runs in a task"
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(cluster.stop)
        await cluster.start()
        control = Control(cluster.grpc_address)
        stack.push_async_callback(control.close)
        await control.wait_nodes(len(HOLDINGS), workers_each=DEVICES)
        for model in models:
            await control.deploy(model.name, keep_alive=_in_words(model.keep_alive_seconds))
        limits = httpx.Limits(max_connections=None)
        client = await stack.enter_async_context(
            httpx.AsyncClient(
                base_url=cluster.http_url, timeout=REQUEST_SECONDS, limits=limits, trust_env=False
            )
        )
        with show_steps("answered requests", len(arrivals)) as steps:
            answered = await replay(client, arrivals, seed=run.seed, progress=steps.update)
        cluster.check()
        return answered


def _in_words(keep_alive_seconds: float | None) -> str:
    return "load" if keep_alive_seconds is None else f"{keep_alive_seconds:g}s"


def _require_recipes(models: Sequence[Model]) -> None:
    known = {recipe.name for recipe in RECIPES}
    if others := [model.name for model in models if model.name not in known]:
        raise DemoFailed(
            f"the demo has no checkpoint of {others[0]}; it has: {', '.join(sorted(known))}"
        )


def _keep(into: Path, folder: Path, answered: Sequence[ReplayedRequest]) -> None:
    """Move what was recorded to where it is wanted, whole or not at all."""
    partial = into.with_name(f".{into.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    lines = (msgspec.json.encode(each) + b"\n" for each in answered)
    (partial / REQUESTS_FILE).write_bytes(b"".join(lines))
    shutil.copytree(folder / "recording", partial / RECORDING_FOLDER)
    partial.rename(into)
