"""Whether files are read from the disk or from the kernel's page cache."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

_BLOCK_BYTES = 1 << 20


def flush_to_disk(file: Path) -> None:
    """Bring a file to the disk, so that its pages can leave the page cache."""
    descriptor = os.open(file, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def drop_from_page_cache(files: Iterable[Path]) -> None:
    """Let the kernel forget files, which must be clean; it may keep what somebody maps."""
    for file in files:
        descriptor = os.open(file, os.O_RDONLY)
        try:
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)


def bring_into_page_cache(files: Iterable[Path]) -> None:
    """Read files once."""
    block = bytearray(_BLOCK_BYTES)
    for file in files:
        with file.open("rb", buffering=0) as opened:
            while opened.readinto(block):
                pass


def bytes_read(pid: int) -> int:
    """Return how many bytes a process has fetched from disks since it began."""
    for line in Path(f"/proc/{pid}/io").read_text().splitlines():
        name, _, value = line.partition(": ")
        if name == "read_bytes":
            return int(value)
    raise OSError(f"/proc/{pid}/io does not say read_bytes")
