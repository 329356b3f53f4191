"""Waiting that ends with a typed error."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import TracebackType


class Deadline:
    """`asyncio.timeout` that raises a typed error."""

    def __init__(self, seconds: float, error: Callable[[], Exception]) -> None:
        self._timeout = asyncio.timeout(max(seconds, 0.0))
        self._error = error

    async def __aenter__(self) -> None:
        await self._timeout.__aenter__()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            await self._timeout.__aexit__(kind, error, trace)
        except TimeoutError as exc:
            raise self._error() from exc
