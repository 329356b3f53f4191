"""Loads: checkpoints on their way into a pool."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Sequence
from threading import Lock
from types import TracebackType

from pilotlight.native_loader import _native
from pilotlight.native_loader.checkpoint import Checkpoint
from pilotlight.native_loader.errors import LayoutMismatch, LoadPending
from pilotlight.native_loader.ledger import ChecksumLedger
from pilotlight.native_loader.load_result import LoadProgress, LoadResult, result_of
from pilotlight.native_loader.parts import CheckpointFile
from pilotlight.native_loader.pool import ChunkPool
from pilotlight.native_loader.verification import known_checksums

BLOCK_BYTES = 1 << 20
READERS = 4
"""Blocks in flight per disk: more gained nothing where it was measured."""

_SIGNAL_PERIOD_SECONDS = 0.1
"""How long a waiting main thread may keep Ctrl-C from being noticed."""


class Load:
    """One load. Thread-safe."""

    def __init__(
        self,
        native: _native.Load,
        loader: _native.Loader,
        checkpoint: Checkpoint,
        *,
        unknown: Sequence[CheckpointFile],
        ledger: ChecksumLedger | None,
    ) -> None:
        """Not for callers: `Loader.submit` makes loads."""
        self.checkpoint = checkpoint
        self.id = f"load-{native.id}"
        self._native = native
        self._loader = loader
        self._unknown = unknown
        self._ledger = ledger
        self._lock = Lock()
        self._result: LoadResult | None = None

    def __repr__(self) -> str:
        return f"<Load {self.id} of {self.checkpoint.path}>"

    @property
    def done(self) -> bool:
        """True once the load has ended, however it did; its chunks are not written any more."""
        return self._native.is_done

    def progress(self) -> LoadProgress:
        """Return how far the load is."""
        progress = self._native.progress()
        return LoadProgress(
            done_bytes=progress.done_bytes,
            total_bytes=progress.total_bytes,
            started=progress.is_started,
        )

    def cancel(self) -> None:
        """Have the load end as soon as the blocks in flight are read; never waits.

        A load that has ended already stays as it is.
        """
        self._loader.cancel(self._native)

    def promote(self, priority: int) -> None:
        """Give the load another priority, from its next chunk on; never waits."""
        self._loader.promote(self._native, priority)

    def result(self, timeout: float | None = None) -> LoadResult:
        """Wait for the end, without the GIL, and return how it went.

        Raises:
            LoadPending: it has not ended within `timeout` seconds.
            ReadFailed, FileChanged, ChecksumMismatch, MemoryRefused, LoadCancelled: it failed.
        """
        deadline = math.inf if timeout is None else time.monotonic() + timeout
        while True:
            left = max(deadline - time.monotonic(), 0.0)
            if self._native.wait(min(left, _SIGNAL_PERIOD_SECONDS)):
                return self._settle()
            if left == 0.0:
                raise LoadPending(self.id, timeout or 0.0)

    def _settle(self) -> LoadResult:
        outcome = self._native.outcome()
        with self._lock:
            if self._result is None:
                self._learn(outcome.crc32c)
                self._result = result_of(outcome, is_verified=not self._unknown)
            return self._result

    def _learn(self, crc32c: Sequence[int]) -> None:
        if self._ledger is None:
            return
        files = self.checkpoint.files
        for file in self._unknown:
            chunks = zip(self.checkpoint.chunks, crc32c, strict=True)
            self._ledger.learn(file, [crc for chunk, crc in chunks if files[chunk.file] is file])


class Loader:
    """Reads checkpoints into a pool. Thread-safe.

    Each disk, known by its device number, has `threads` readers. It serves one
    load at a time, by priority, then bytes left, then order of submission, and may
    leave it for another one between chunks; another load gets only what the first
    leaves over. Loads from different disks run side by side.
    """

    def __init__(
        self,
        pool: ChunkPool,
        *,
        threads: int = READERS,
        block_bytes: int = BLOCK_BYTES,
        ledger: ChecksumLedger | None = None,
    ) -> None:
        self._pool = pool
        self._native = _native.Loader(pool.native, threads, block_bytes)
        self._ledger = ledger
        self._lock = Lock()
        self._loads: dict[int, Load] = {}

    def __enter__(self) -> Loader:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def completion_fd(self) -> int:
        """Return an eventfd that is readable while `finished` has something to return."""
        return self._native.completion_fd

    def submit(
        self,
        checkpoint: Checkpoint,
        chunks: Sequence[int],
        *,
        priority: int = 0,
        use_page_cache: bool = False,
    ) -> Load:
        """Begin to read `checkpoint.chunks[i]` into the pool's chunk `chunks[i]`; never waits.

        The caller holds the chunks as cached, and may neither bind nor release them
        before the load has ended. With `use_page_cache`, blocks that are in the page
        cache are taken from there instead of the disk.

        Raises:
            LayoutMismatch: they are not as many, or not as large, as the checkpoint's.
            ChunkStateError: one of them is not cached, or another load writes into it.
            LoaderClosed: as it says.
        """
        check_targets(checkpoint, chunks, self._pool.chunk_bytes)
        known = known_checksums(checkpoint, self._ledger)
        with self._lock:
            native = self._native.submit(
                [_file_tuple(file) for file in checkpoint.files],
                [
                    (chunk.file, chunk.offset, chunk.length, chunk.number, target, expected)
                    for chunk, target, expected in zip(
                        checkpoint.chunks, chunks, _per_chunk(checkpoint, known), strict=True
                    )
                ],
                priority,
                use_page_cache,
            )
            load = Load(
                native,
                self._native,
                checkpoint,
                unknown=[
                    file for file, sums in zip(checkpoint.files, known, strict=True) if sums is None
                ],
                ledger=self._ledger,
            )
            self._loads[native.id] = load
            return load

    def finished(self) -> list[Load]:
        """Return the loads that have ended since the last call."""
        with self._lock:
            return [self._loads.pop(native.id) for native in self._native.finished()]

    def close(self) -> None:
        """Cancel what runs and wait until nothing is written any more."""
        self._native.close()


def check_targets(checkpoint: Checkpoint, chunks: Sequence[int], chunk_bytes: int) -> None:
    """Check that pool chunks can hold a checkpoint's.

    Raises:
        LayoutMismatch: they can't.
    """
    if len(chunks) != checkpoint.n_chunks:
        raise LayoutMismatch(
            f"{checkpoint.path} has {checkpoint.n_chunks} chunks, and {len(chunks)} were given"
        )
    longest = max((chunk.length for chunk in checkpoint.chunks), default=0)
    if longest > chunk_bytes:
        raise LayoutMismatch(
            f"a chunk of {longest:,d} bytes does not fit a pool's chunk of {chunk_bytes:,d} bytes"
        )


def _file_tuple(file: CheckpointFile) -> tuple[bytes, int, int, int, int, int]:
    return (
        os.fsencode(file.path),
        file.device,
        file.inode,
        file.size_bytes,
        file.mtime_ns,
        file.ctime_ns,
    )


def _per_chunk(checkpoint: Checkpoint, known: Sequence[Sequence[int] | None]) -> list[int | None]:
    sums = [known[chunk.file] for chunk in checkpoint.chunks]
    return [
        None if of_file is None else of_file[chunk.number]
        for chunk, of_file in zip(checkpoint.chunks, sums, strict=True)
    ]
