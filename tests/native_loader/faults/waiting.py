"""Waiting until a load is in the middle."""

from __future__ import annotations

import time
from collections.abc import Sequence

from pilotlight.native_loader import ChunkStateError, Load, Loader, LoaderClosed

_DEADLINE_SECONDS = 30


def wait_until_reading(load: Load) -> None:
    """Wait until a load has read something; it must not have ended then."""
    deadline = time.monotonic() + _DEADLINE_SECONDS
    while not load.progress().done_bytes:
        assert time.monotonic() < deadline
        time.sleep(0.001)
    assert not load.done


def wait_until_closing(loader: Loader, load: Load, chunks: Sequence[int]) -> None:
    """Wait until a loader that one thread closes takes nothing more, while a load still runs."""
    deadline = time.monotonic() + _DEADLINE_SECONDS
    while True:
        try:
            loader.submit(load.checkpoint, chunks)
        except LoaderClosed:
            return
        except ChunkStateError:
            # The load that runs has them.
            assert time.monotonic() < deadline
            time.sleep(0.001)
