"""What happens, live: slots, DRAM and events."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from types import TracebackType

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from pilotlight.scheduler.demo.control import Control
from pilotlight.scheduler.protocol import control_plane_pb2 as pb

REFRESH_SECONDS = 0.25
SHOWN_EVENTS = 12


class Screen:
    """Shows the cluster while the block runs: a live table on a terminal, else plain lines."""

    def __init__(self, console: Console, control: Control) -> None:
        self._console = console
        self._control = control
        self._lines: deque[str] = deque(maxlen=SHOWN_EVENTS)
        self._live = Live(console=console, transient=True, auto_refresh=False)
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Screen:
        self._tasks.append(asyncio.create_task(self._follow_events()))
        if self._console.is_terminal:
            self._live.start()
            self._tasks.append(asyncio.create_task(self._follow_cluster()))
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._live.stop()

    def say(self, text: str) -> None:
        """Show one line."""
        if self._console.is_terminal:
            self._lines.append(text)
        else:
            self._console.print(text, highlight=False)

    async def _follow_events(self) -> None:
        async for event in self._control.events():
            self.say(f"  {event.text}")

    async def _follow_cluster(self) -> None:
        while True:
            nodes = await self._control.nodes()
            replicas = await self._control.replicas()
            models = await self._control.models()
            table = _cluster_table(nodes, replicas, models)
            self._live.update(Group(table, Text("\n".join(self._lines))), refresh=True)
            await asyncio.sleep(REFRESH_SECONDS)


def _cluster_table(
    nodes: Sequence[pb.Node], replicas: Sequence[pb.Replica], models: Sequence[pb.Model]
) -> Table:
    table = Table(title="Pilotlight", expand=True)
    for column in ("node", "slots", "in DRAM", "warm workers"):
        table.add_column(column)
    for node in nodes:
        own = [replica for replica in replicas if replica.node_id == node.node_id]
        dram = [model.spec.name for model in models if node.node_id in model.dram_nodes]
        table.add_row(
            node.node_id, "\n".join(map(_slot, own)), ", ".join(dram), str(node.warm_workers)
        )
    waiting = ", ".join(f"{m.spec.name}: {m.waiting}" for m in models if m.waiting)
    table.caption = f"waiting: {waiting or 'nobody'}"
    return table


def _slot(replica: pb.Replica) -> str:
    if replica.state == "starting":
        return f"{replica.model} [yellow]starting {replica.load_progress:.0%}[/]"
    if replica.state == "ready" and replica.running:
        return f"{replica.model} [green]running {replica.running}[/]"
    return f"{replica.model} [dim]{replica.state}[/]"
