"""The memory and the readers of a node, as its settings divide the machine."""

from __future__ import annotations

import threading
from pathlib import Path

import structlog

from pilotlight.native_loader import CHUNK_BYTES, ChecksumLedger, ChunkPool, Loader, LoaderError
from pilotlight.native_loader.disks.disk_settings import DiskSettings, KnownDisks
from pilotlight.process.quantities import format_bytes
from pilotlight.store_node.core import Capacity
from pilotlight.store_node.errors import InvalidSettings
from pilotlight.store_node.settings import Sizes

log = structlog.get_logger(__name__)


class Machine:
    """A chunk pool and its loader, from their making to their end."""

    def __init__(
        self,
        sizes: Sizes,
        *,
        n_devices: int,
        loader_threads: int,
        disks: KnownDisks,
        checksums: Path,
    ) -> None:
        """Reserve the pool; memory is taken when it is first written to.

        Raises:
            InvalidSettings: a device would hold nothing.
            LoaderError: the kernel refuses.
        """
        wanted = _wanted(sizes, n_devices)
        self.pool = ChunkPool(wanted.total_chunks * CHUNK_BYTES)
        self.capacity = _fitted(wanted, self.pool.n_chunks)
        self.loader = Loader(
            self.pool,
            settings=DiskSettings(n_readers=loader_threads) if loader_threads else None,
            disks=None if loader_threads else disks,
            ledger=ChecksumLedger(checksums),
        )
        self._stopped = threading.Event()
        self._is_populating = threading.Lock()

    def populate(self, n_chunks: int) -> None:
        """Have the kernel give memory for the first chunks ahead of loads; for a thread."""
        with self._is_populating:
            for number in range(1, min(n_chunks, self.pool.n_chunks) + 1):
                if self._stopped.is_set():
                    return
                try:
                    self.pool.populate(number)
                except LoaderError as exc:
                    # Loads will find out for themselves whether they get memory.
                    log.warning("memory could not be made ready", reason=str(exc))
                    return

    def close(self) -> None:
        """End what runs and give the memory back."""
        self._stopped.set()
        with self._is_populating:
            self.loader.close()
            self.pool.close()


def _wanted(sizes: Sizes, n_devices: int) -> Capacity:
    device_chunks = sizes.device_bytes // CHUNK_BYTES
    if n_devices < 1 or device_chunks < 1:
        raise InvalidSettings(
            f"a node needs a device that holds at least one chunk of {format_bytes(CHUNK_BYTES)};"
            f" {n_devices} devices of {format_bytes(sizes.device_bytes)} were asked for"
        )
    return Capacity(
        n_devices=n_devices,
        device_chunks=device_chunks,
        dram_chunks=sizes.dram_bytes // CHUNK_BYTES,
        chunk_bytes=CHUNK_BYTES,
    )


def _fitted(wanted: Capacity, n_chunks: int) -> Capacity:
    """Divide what memory there is: the devices first, DRAM has the rest."""
    if n_chunks >= wanted.total_chunks:
        return wanted
    device_chunks = min(wanted.device_chunks, n_chunks // wanted.n_devices)
    if device_chunks < 1:
        raise InvalidSettings(
            f"memory is left for {n_chunks} chunks, which is not one for each of"
            f" {wanted.n_devices} devices"
        )
    fitted = Capacity(
        n_devices=wanted.n_devices,
        device_chunks=device_chunks,
        dram_chunks=n_chunks - wanted.n_devices * device_chunks,
        chunk_bytes=CHUNK_BYTES,
    )
    log.warning(
        "less memory is left than the settings ask for",
        device=format_bytes(device_chunks * CHUNK_BYTES),
        dram=format_bytes(fitted.dram_chunks * CHUNK_BYTES),
    )
    return fitted
