"""Proof of where bytes came from: what is in the page cache, and what a process read."""

from __future__ import annotations

import os
from pathlib import Path


def drop_from_page_cache(folder: Path) -> None:
    """Let the kernel forget a checkpoint's files, which must be clean."""
    for file in folder.iterdir():
        descriptor = os.open(file, os.O_RDONLY)
        try:
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)


def bytes_read(pid: int) -> int:
    """Return how many bytes a process has fetched from disks since it began."""
    for line in Path(f"/proc/{pid}/io").read_text().splitlines():
        name, _, value = line.partition(": ")
        if name == "read_bytes":
            return int(value)
    raise OSError(f"/proc/{pid}/io does not say read_bytes")


def weight_bytes(folder: Path) -> int:
    """Return the size of a checkpoint's weight files."""
    return sum(file.stat().st_size for file in folder.glob("*.safetensors"))
