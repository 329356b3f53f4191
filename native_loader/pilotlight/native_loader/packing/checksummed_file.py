"""Files that know their checksums as soon as they are written."""

from __future__ import annotations

import os
from pathlib import Path
from types import TracebackType

from pilotlight.native_loader._native import crc32c
from pilotlight.native_loader.formats.parts import CHUNK_BYTES

_SYNC_PERIOD_BYTES = 256 << 20
"""Written back this often, so that progress is true and memory is not full of dirty pages."""


class ChecksummedFile:
    """A new file that knows the CRC-32C of each of its chunks."""

    def __init__(self, path: Path) -> None:
        self._stream = path.open("xb", buffering=1 << 20)
        self._synced_bytes = 0
        self.size_bytes = 0
        self.crc32c: list[int] = []

    def __enter__(self) -> ChecksummedFile:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if exc is None:
            self._stream.close()
            return
        try:
            self._stream.close()
        except OSError:
            # What could not be written can't be flushed either; the first error is the one to tell.
            pass

    def write(self, data: bytes | memoryview) -> None:
        """Append bytes."""
        self._stream.write(data)
        left = memoryview(data)
        while left:
            if self.size_bytes % CHUNK_BYTES == 0:
                self.crc32c.append(0)
            part = left[: CHUNK_BYTES - self.size_bytes % CHUNK_BYTES]
            self.crc32c[-1] = crc32c(part, self.crc32c[-1])
            self.size_bytes += len(part)
            left = left[len(part) :]
        if self.size_bytes - self._synced_bytes >= _SYNC_PERIOD_BYTES:
            self.sync()

    def sync(self) -> None:
        """Have all that was written survive a crash."""
        self._stream.flush()
        os.fsync(self._stream.fileno())
        self._synced_bytes = self.size_bytes
