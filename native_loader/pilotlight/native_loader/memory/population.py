"""Memory given to a pool ahead of the loads that will want it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Protocol

from pilotlight.native_loader.errors import MemoryRefused

_STEP_BYTES = 64 << 20
"""At most this long, some tens of milliseconds, does the end of a population take."""

_PAUSE_SECONDS = 0.005
"""Until it is tried again beside a load that populates."""

_RESERVE_BYTES = 256 << 20
"""Left to everybody else: a machine without memory kills processes instead of refusing."""


class PopulatedPool(Protocol):
    """What is populated."""

    @property
    def n_chunks(self) -> int:
        """Return how many chunks there are."""
        ...

    @property
    def chunk_bytes(self) -> int:
        """Return the size of a chunk."""
        ...

    @property
    def populated_bytes(self) -> int:
        """Return how much memory they have."""
        ...

    def populate_ahead(self, length: int) -> int:
        """Give memory to about `length` bytes that have none; return how many got some."""
        ...


class Population:
    """A thread that gives memory to a pool's chunks, lowest first, while no load does so.

    It ends when all chunks have memory, when memory becomes scarce or is refused, or
    when it is told to; `refusal` says whether it was for want of memory. Where no thread
    can be had it never begins, and loads give memory to what they need. Thread-safe.
    """

    def __init__(self, pool: PopulatedPool, available_bytes: Callable[[], int | None]) -> None:
        self._pool = pool
        self._available_bytes = available_bytes
        self._stopping = threading.Event()
        self._refusal = ""
        self._thread = threading.Thread(target=self._run, name="pool population")

    def start(self) -> None:
        """Begin, if there can be a thread."""
        try:
            self._thread.start()
        except RuntimeError as exc:
            self._refusal = f"no thread could be had: {exc}"

    @property
    def running(self) -> bool:
        """Whether there may be more to come."""
        return self._thread.is_alive()

    @property
    def refusal(self) -> str:
        """Return what was wanting, memory or a thread, "" if nothing was so far."""
        return self._refusal

    def stop_soon(self) -> None:
        """Have it end after what it is doing; never waits."""
        self._stopping.set()

    def stop(self) -> None:
        """Have it end and wait for that, some tens of milliseconds."""
        self._stopping.set()
        self.join()

    def join(self, timeout: float | None = None) -> None:
        """Wait for the end."""
        if self._thread.ident is not None:
            self._thread.join(timeout)

    def _run(self) -> None:
        capacity_bytes = self._pool.n_chunks * self._pool.chunk_bytes
        # An interpreter that exits waits for this thread once the main one is gone.
        while not self._stopping.is_set() and threading.main_thread().is_alive():
            if self._pool.populated_bytes >= capacity_bytes or self._is_scarce():
                return
            try:
                n_bytes = self._pool.populate_ahead(_STEP_BYTES)
            except MemoryRefused as exc:
                self._refusal = str(exc)
                return
            if n_bytes == 0:
                self._stopping.wait(_PAUSE_SECONDS)

    def _is_scarce(self) -> bool:
        available_bytes = self._available_bytes()
        if available_bytes is None or available_bytes >= _STEP_BYTES + _RESERVE_BYTES:
            return False
        self._refusal = f"only {available_bytes:,d} bytes of memory are available"
        return True
