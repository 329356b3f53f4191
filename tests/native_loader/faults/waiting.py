"""Waiting until a load is in the middle."""

from __future__ import annotations

import time

from pilotlight.native_loader import Load

_DEADLINE_SECONDS = 30


def wait_until_reading(load: Load) -> None:
    """Wait until a load has read something; it must not have ended then."""
    deadline = time.monotonic() + _DEADLINE_SECONDS
    while not load.progress().done_bytes:
        assert time.monotonic() < deadline
        time.sleep(0.001)
    assert not load.done
