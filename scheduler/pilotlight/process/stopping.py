"""How a process that serves is told to stop."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

ENDED_AT_ONCE = 130
"""The exit code of a process that was told to stop twice."""


class StopSignals:
    """SIGINT and SIGTERM as the end of a block; the second one ends the process at once.

    A stop that was asked for is a success: the exit code of who then ends in
    order is 0, whichever signal it was. Make it in the event loop's thread.
    """

    def __init__(self) -> None:
        self._is_told = False
        self._blocks: list[asyncio.Timeout] = []
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._note)

    @asynccontextmanager
    async def until_told(self) -> AsyncGenerator[None]:
        """Run the block until the process is told to stop; it is left then as if it had ended.

        What the block awaits at that moment is cancelled.
        """
        block = asyncio.timeout(None)
        try:
            async with block:
                self._blocks.append(block)
                if self._is_told:
                    _leave(block)
                try:
                    yield
                finally:
                    self._blocks.remove(block)
        except TimeoutError:
            if not block.expired():
                raise

    def _note(self) -> None:
        if self._is_told:
            # Children follow, for the kernel ends them with this process.
            os._exit(ENDED_AT_ONCE)
        self._is_told = True
        for block in self._blocks:
            _leave(block)


def _leave(block: asyncio.Timeout) -> None:
    block.reschedule(asyncio.get_running_loop().time())
