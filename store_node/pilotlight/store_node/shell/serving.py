"""Runs a node in the foreground until it is told to stop."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import AsyncExitStack

from pilotlight.process.stopping import StopSignals
from pilotlight.store_node.settings import NodeSettings
from pilotlight.store_node.shell.assembly import running_node


async def serve(settings: NodeSettings, environ: Mapping[str, str]) -> None:
    """Run a node until SIGINT or SIGTERM; a second one ends at once.

    Raises:
        StoreNodeError, ProcessError, LoaderError: it can't run as it is configured.
        Exception: a defect kept it from going on.
    """
    stop = StopSignals()
    # Outside of what is cut short: all that was begun ends in order.
    async with AsyncExitStack() as stack, stop.until_told():
        node = await stack.enter_async_context(running_node(settings, environ))
        await asyncio.shield(node.failed)
