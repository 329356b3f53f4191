"""The disks of one loader: how it reads them, and what its loads tell of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from threading import Lock

from pilotlight.native_loader import _native
from pilotlight.native_loader.disks.disk_settings import DiskSettings, KnownDisks
from pilotlight.native_loader.formats.parts import CheckpointFile
from pilotlight.native_loader.load_result import LoadResult

_TELLING_BYTES = 256 << 20
"""A shorter load may have been lucky."""


class LoaderDisks:
    """Settles once per disk how it is read. Thread-safe."""

    def __init__(
        self, native: _native.Loader, *, usual: DiskSettings, known: KnownDisks | None
    ) -> None:
        self._native = native
        self._usual = usual
        self._known = known
        self._lock = Lock()
        self._settings: dict[int, DiskSettings] = {}

    def prepare(self, files: Iterable[CheckpointFile]) -> None:
        """Settle how the files' disks are read; one that nobody knows is probed by its largest."""
        largest: dict[int, CheckpointFile] = {}
        for file in files:
            best = largest.get(file.device)
            if best is None or file.size_bytes > best.size_bytes:
                largest[file.device] = file
        for file in largest.values():
            if self._known is not None and not self._is_settled(file.device):
                self._settle(file.device, self._known.settings_for(file))

    def use(self, files: Iterable[CheckpointFile]) -> None:
        """Settle on what is remembered, or usual, for disks that were not prepared.

        A load begins now, so nothing is probed.
        """
        for file in {file.device: file for file in files}.values():
            if not self._is_settled(file.device):
                remembered = self._known.remembered(file) if self._known else None
                self._settle(file.device, remembered or self._usual)

    def n_readers(self, files: Sequence[CheckpointFile]) -> int:
        """Return how many threads read the files."""
        with self._lock:
            devices = {file.device for file in files}
            return sum(self._settings[device].n_readers for device in devices) or 1

    def bytes_per_second(self, files: Sequence[CheckpointFile]) -> float | None:
        """Return how fast the files can be read together, None where that is not known."""
        return None if self._known is None else self._known.bytes_per_second(files)

    def hear(self, files: Sequence[CheckpointFile], result: LoadResult) -> None:
        """Learn from a load that was faster than its disk was known to be."""
        if self._known is None or not result.tells_disk_speed:
            return
        if result.bytes_read >= _TELLING_BYTES and result.busy_seconds > 0:
            self._known.raise_limit(files, result.bytes_read / result.busy_seconds)

    def _is_settled(self, device: int) -> bool:
        with self._lock:
            return device in self._settings

    def _settle(self, device: int, settings: DiskSettings) -> None:
        with self._lock:
            if device in self._settings:
                return
            self._native.configure(device, settings.n_readers, settings.depth, settings.block_bytes)
            self._settings[device] = settings
