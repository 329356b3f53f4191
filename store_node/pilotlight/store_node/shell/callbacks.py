"""Defects in callbacks of the event loop, which would else only be logged."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

_OURS = "pilotlight."


@contextmanager
def watched_callbacks(on_defect: Callable[[BaseException], None]) -> Generator[None]:
    """Tell what callbacks of ours raise while the block runs; asyncio logs it as ever.

    Libraries' callbacks are left out: what they raise, and recover from, is theirs.
    """
    loop = asyncio.get_running_loop()
    before = loop.get_exception_handler()

    def handle(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if "handle" in context and isinstance(error, Exception) and _is_ours(error):
            on_defect(error)
        if before is not None:
            before(loop, context)
        else:
            loop.default_exception_handler(context)

    loop.set_exception_handler(handle)
    try:
        yield
    finally:
        loop.set_exception_handler(before)


def _is_ours(error: Exception) -> bool:
    # The outermost frame is the loop's, the next one the callback's.
    frame = error.__traceback__.tb_next if error.__traceback__ else None
    return frame is not None and frame.tb_frame.f_globals.get("__name__", "").startswith(_OURS)
