"""How fast a checkpoint's files can be read at all: the disk's part of the floor.

A small buffer that is used again stays in the processor's cache and flatters the
disk; memory that is not there yet, or has small pages, holds it back. So this
reads into memory of the files' size with huge pages, which is there beforehand,
as the pool of a node is.
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

BLOCK_BYTES = 1 << 20
READERS = 4
"""Blocks in flight; more gained nothing where it was measured."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RawRead:
    """One reading of all files."""

    seconds: float
    size_bytes: int
    is_direct: bool
    """False where the file system refuses to go past the page cache."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Block:
    file: int
    offset: int
    size_bytes: int
    target: int
    """Where it goes in the buffer; aligned, as direct reads need it."""


class RawReader:
    """Reads the same files again and again; one at a time."""

    def __init__(self, files: Sequence[Path]) -> None:
        self._files = tuple(files)
        self._blocks = _blocks_of([file.stat().st_size for file in files])
        self._buffer = _memory(max(len(self._blocks), 1) * BLOCK_BYTES)
        self._view = memoryview(self._buffer)
        self._threads = ThreadPoolExecutor(READERS, thread_name_prefix="raw-read")

    def __enter__(self) -> RawReader:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._threads.shutdown()
        self._view.release()
        self._buffer.close()

    @property
    def memory(self) -> memoryview:
        """Return what was read last: each file from the beginning of a block on."""
        return self._view

    def read(self) -> RawRead:
        """Read everything once.

        Raises:
            OSError: the disk does not give it.
        """
        with contextlib.ExitStack() as stack:
            descriptors, is_direct = _open_all(self._files, stack)
            began = time.monotonic()
            blocks = iter(self._blocks)
            readers = [
                self._threads.submit(self._read, descriptors, blocks) for _ in range(READERS)
            ]
            size_bytes = sum(reader.result() for reader in readers)
            seconds = time.monotonic() - began
        return RawRead(seconds=seconds, size_bytes=size_bytes, is_direct=is_direct)

    def _read(self, descriptors: Sequence[int], blocks: Iterator[_Block]) -> int:
        """Read blocks that no other reader has taken, until there are none; return the bytes."""
        total = 0
        for block in blocks:
            # A direct read of a file's end asks for a whole block, and gets what there is.
            with self._view[block.target : block.target + BLOCK_BYTES] as part:
                n_read = os.preadv(descriptors[block.file], [part], block.offset)
            if n_read < block.size_bytes:
                raise OSError(errno.EIO, "is shorter than it was", str(self._files[block.file]))
            total += n_read
        return total


def _blocks_of(sizes: Sequence[int]) -> list[_Block]:
    places = [
        (file, offset, min(BLOCK_BYTES, size - offset))
        for file, size in enumerate(sizes)
        for offset in range(0, size, BLOCK_BYTES)
    ]
    return [
        _Block(file=file, offset=offset, size_bytes=size, target=number * BLOCK_BYTES)
        for number, (file, offset, size) in enumerate(places)
    ]


def _memory(size_bytes: int) -> mmap.mmap:
    memory = mmap.mmap(-1, size_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    # A kernel without huge pages refuses the wish, and pages are small then.
    with contextlib.suppress(OSError):
        memory.madvise(mmap.MADV_HUGEPAGE)
    for offset in range(0, size_bytes, mmap.PAGESIZE):
        memory[offset] = 1
    return memory


def _open_all(files: Sequence[Path], stack: contextlib.ExitStack) -> tuple[list[int], bool]:
    """Open files past the page cache, or otherwise where that is refused."""
    try:
        return [_open(file, os.O_DIRECT, stack) for file in files], True
    except OSError as exc:
        if exc.errno != errno.EINVAL:
            raise
    return [_open(file, 0, stack) for file in files], False


def _open(file: Path, flags: int, stack: contextlib.ExitStack) -> int:
    descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC | flags)
    stack.callback(os.close, descriptor)
    return descriptor
