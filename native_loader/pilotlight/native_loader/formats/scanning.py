"""Reading weight files from their first byte to their last, in bounded memory."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeAlias

from pilotlight.native_loader.errors import CorruptCheckpoint, FileChanged, ReadFailed
from pilotlight.native_loader.formats.parts import CheckpointFile

ProgressCallback: TypeAlias = Callable[[int, int], None]
"""Called now and then with the bytes done and the bytes there are."""

PIECE_BYTES = 4 << 20
"""Read at once; a divisor of a chunk."""


class OpenFile:
    """A weight file, open for reading and known to be the one its checkpoint saw."""

    def __init__(self, fd: int, file: CheckpointFile) -> None:
        self._fd = fd
        self._file = file
        self._buffer = memoryview(bytearray(PIECE_BYTES))

    def pieces(self, offset: int, length: int) -> Iterator[memoryview]:
        """Yield a range in pieces that end at multiples of `PIECE_BYTES` of the file.

        Each piece is overwritten when the next is asked for.

        Raises:
            ReadFailed: the file system failed.
            FileChanged: the file ends before the range does.
        """
        end = offset + length
        while offset < end:
            piece = self._buffer[: min(PIECE_BYTES - offset % PIECE_BYTES, end - offset)]
            try:
                n_bytes = os.preadv(self._fd, [piece], offset)
            except OSError as exc:
                raise ReadFailed(self._file.path, offset, exc.errno or 0) from exc
            if n_bytes == 0:
                raise FileChanged(self._file.path, f"it ends at byte {offset:,d}")
            yield piece[:n_bytes]
            offset += n_bytes


@contextmanager
def opened(file: CheckpointFile, *, from_disk: bool = False) -> Generator[OpenFile]:
    """Open a weight file; before and after the block it must be what its checkpoint saw.

    With `from_disk`, what the page cache holds of it is dropped first: it could
    be right where the disk no longer is.

    Raises:
        ReadFailed: it can't be opened.
        FileChanged: it is another one, or was written to.
    """
    try:
        fd = os.open(file.path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as exc:
        raise ReadFailed(file.path, 0, exc.errno or 0) from exc
    try:
        _check_identity(fd, file)
        if from_disk:
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        yield OpenFile(fd, file)
        _check_identity(fd, file)
    finally:
        os.close(fd)


def regular_file(path: Path) -> CheckpointFile:
    """Return a file of another format as it is now: all of it is data.

    Raises:
        CorruptCheckpoint: it is something else than a regular file.
        ReadFailed: the file system failed, or there is no such file.
    """
    try:
        status = path.stat()
    except OSError as exc:
        raise ReadFailed(path, 0, exc.errno or 0) from exc
    if not stat.S_ISREG(status.st_mode):
        raise CorruptCheckpoint(path, "is no regular file")
    return CheckpointFile(
        path=path,
        size_bytes=status.st_size,
        data_offset=0,
        device=status.st_dev,
        inode=status.st_ino,
        mtime_ns=status.st_mtime_ns,
        ctime_ns=status.st_ctime_ns,
    )


def scan(
    files: Sequence[CheckpointFile],
    visit: Callable[[int, int, memoryview], None],
    progress: ProgressCallback | None = None,
    *,
    from_disk: bool = False,
) -> None:
    """Read all files and show every piece to `visit`: file, offset, bytes.

    Pieces never cross a chunk's border.

    Raises:
        ReadFailed, FileChanged: as they say.
    """
    total_bytes = sum(file.size_bytes for file in files)
    done_bytes = 0
    for index, file in enumerate(files):
        with opened(file, from_disk=from_disk) as source:
            offset = 0
            for piece in source.pieces(0, file.size_bytes):
                visit(index, offset, piece)
                offset += len(piece)
                done_bytes += len(piece)
                if progress is not None:
                    progress(done_bytes, total_bytes)


def _check_identity(fd: int, file: CheckpointFile) -> None:
    status = os.fstat(fd)
    if (status.st_dev, status.st_ino) != (file.device, file.inode):
        raise FileChanged(file.path, "it was replaced by another file")
    if status.st_size != file.size_bytes:
        raise FileChanged(
            file.path, f"it was {file.size_bytes} bytes long and is now {status.st_size}"
        )
    if (status.st_mtime_ns, status.st_ctime_ns) != (file.mtime_ns, file.ctime_ns):
        raise FileChanged(file.path, "it was written to or had its attributes changed")
