"""Files that are read as a whole: manifests and indexes."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from pilotlight.native_loader.errors import CorruptCheckpoint
from pilotlight.native_loader.formats.confinement import Roots


def read_whole(file: Path, *, most_bytes: int, roots: Roots) -> bytes:
    """Return a file's bytes.

    Raises:
        OutsideRoots: it is a link that leads outside.
        CorruptCheckpoint: it is too long, or no regular file.
        OSError: it can't be read.
    """
    roots.check(file)
    with open(file, "rb", opener=_open_without_waiting) as stream:
        roots.check_open(stream.fileno(), file)
        if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
            raise CorruptCheckpoint(file, "is no regular file")
        raw = stream.read(most_bytes + 1)
    if len(raw) > most_bytes:
        raise CorruptCheckpoint(file, f"is longer than {most_bytes:,d} bytes")
    return raw


def _open_without_waiting(path: str, flags: int) -> int:
    # A FIFO would block a plain open for ever.
    return os.open(path, flags | os.O_NONBLOCK)
