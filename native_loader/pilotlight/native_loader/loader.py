"""Loads: checkpoints on their way into a pool."""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from threading import Lock
from types import TracebackType
from weakref import WeakValueDictionary

from pilotlight.native_loader import _native
from pilotlight.native_loader.devices.device import DeviceMemory
from pilotlight.native_loader.disks.disk_settings import DiskSettings, KnownDisks
from pilotlight.native_loader.disks.loader_disks import LoaderDisks
from pilotlight.native_loader.errors import LoadPending
from pilotlight.native_loader.formats.checkpoint import Checkpoint
from pilotlight.native_loader.formats.ledger import ChecksumLedger
from pilotlight.native_loader.formats.parts import Place, n_chunks_of
from pilotlight.native_loader.load_plans import LoadPlan, plan_load, plan_stream
from pilotlight.native_loader.load_result import LoadProgress, LoadResult, result_of
from pilotlight.native_loader.memory.pool import ChunkPool
from pilotlight.native_loader.placements.placement import Placement

_SIGNAL_PERIOD_SECONDS = 0.1
"""How long a waiting main thread may keep Ctrl-C from being noticed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceCopies:
    """What of a checkpoint goes into which devices' memory."""

    placement: Placement
    memories: Sequence[DeviceMemory]
    """One for each partition, of its size at least."""


class Load:
    """One load. Thread-safe."""

    def __init__(
        self,
        native: _native.Load,
        loader: _native.Loader,
        checkpoint: Checkpoint,
        *,
        plan: LoadPlan,
        n_links: int,
        disks: LoaderDisks,
        ledger: ChecksumLedger | None,
    ) -> None:
        """Not for callers: `Loader.submit` makes loads."""
        self.checkpoint = checkpoint
        self.id = f"load-{native.id}"
        self._native = native
        self._loader = loader
        self._plan = plan
        self._n_links = n_links
        self._disks = disks
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
            copied_bytes=progress.copied_bytes,
            total_copied_bytes=progress.total_copied_bytes,
        )

    def cancel(self) -> None:
        """Have the load end as soon as the blocks in flight are read; never waits.

        A load that has ended already stays as it is.
        """
        self._loader.cancel(self._native)

    def promote(self, priority: int) -> None:
        """Give the load another priority, from its next chunk on; never waits."""
        self._loader.promote(self._native, priority)

    def wait(self) -> None:
        """Wait for the end, however it comes, without the GIL and without being interrupted."""
        self._native.wait(None)

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
                self._result = self._summarise(outcome)
            return self._result

    def _summarise(self, outcome: _native.LoadOutcome) -> LoadResult:
        files = self.checkpoint.files
        result = result_of(
            outcome,
            is_verified=not self._plan.unknown,
            n_readers=self._disks.n_readers(files),
            disk_bytes_per_second=self._disks.bytes_per_second(files),
            n_links=self._n_links,
        )
        self._disks.hear(files, result)
        return result

    def _learn(self, crc32c: Sequence[int]) -> None:
        if self._ledger is None:
            return
        sums: dict[int, list[int]] = {file: [] for file in self._plan.unknown}
        for i in self._plan.read:
            chunk = self.checkpoint.chunks[self._plan.numbers[i]]
            if chunk.file in sums:
                sums[chunk.file].append(crc32c[i])
        for index, of_file in sums.items():
            file = self.checkpoint.files[index]
            if len(of_file) == n_chunks_of(file):
                self._ledger.learn(file, of_file)


class Loader:
    """Reads checkpoints into a pool. Thread-safe.

    Each disk, known by its device number, has readers of its own, as many as
    `settings` say, or what is known of that disk once `prepare` was called for it.
    It serves one load at a time, by priority, then bytes left, then order of
    submission, and may leave it for another one between chunks; another load gets
    only what the first leaves over. Loads from different disks run side by side.
    """

    def __init__(
        self,
        pool: ChunkPool,
        *,
        settings: DiskSettings | None = None,
        disks: KnownDisks | None = None,
        ledger: ChecksumLedger | None = None,
    ) -> None:
        usual = settings or DiskSettings()
        self._pool = pool
        self._native = _native.Loader(pool.native, usual.n_readers, usual.depth, usual.block_bytes)
        self._disks = LoaderDisks(self._native, usual=usual, known=disks)
        self._ledger = ledger
        self._lock = Lock()
        self._loads: WeakValueDictionary[int, Load] = WeakValueDictionary()

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

    def prepare(self, checkpoint: Checkpoint) -> None:
        """Find out how the checkpoint's disks are read best, before anything is read from them.

        A disk that was never probed is, which takes a fifth of a second. What is
        settled for a disk stays so for this loader.
        """
        self._disks.prepare(checkpoint.files)

    def submit(
        self,
        checkpoint: Checkpoint,
        chunks: Sequence[int | Place],
        *,
        priority: int = 0,
        use_page_cache: bool = False,
        resident: Collection[int] = (),
        copies: DeviceCopies | None = None,
    ) -> Load:
        """Begin to read `checkpoint.chunks[i]` into the pool's chunk `chunks[i]`; never waits.

        The caller holds the chunks as cached, and may neither bind nor release them
        before the load has ended; with a `Place` a chunk is shared with other loads,
        and may be bound. Chunks whose numbers are in `resident` are there already,
        from a load that succeeded, and are not read. Each chunk is copied to devices
        as `copies` says as soon as it is there. With `use_page_cache`, blocks that are
        in the page cache are taken from there instead of the disk.

        Raises:
            LayoutMismatch: they are not as many, or not as large, as the checkpoint's.
            ChunkStateError: one of them is not cached, or another load writes into it.
            LoaderClosed: as it says.
        """
        plan = plan_load(
            checkpoint,
            chunks,
            ledger=self._ledger,
            chunk_bytes=self._pool.chunk_bytes,
            resident=resident,
            copies=copies.placement.copies if copies else (),
        )
        return self._submit(checkpoint, plan, copies, priority, use_page_cache)

    def stream(
        self,
        checkpoint: Checkpoint,
        staging: Sequence[int],
        copies: DeviceCopies,
        *,
        priority: int = 0,
        use_page_cache: bool = False,
    ) -> Load:
        """Begin to read a checkpoint into devices; never waits.

        It passes through the pool's chunks `staging`, which the caller holds as
        cached: with fewer than some 16, the disk or the link may wait for the other.
        What no device is to hold is not read.

        Raises:
            LayoutMismatch: there is no staging, or the checkpoint's chunks do not fit it.
            ChunkStateError: a chunk is not cached, or another load writes into it.
            LoaderClosed: as it says.
        """
        plan = plan_stream(
            checkpoint,
            staging,
            ledger=self._ledger,
            chunk_bytes=self._pool.chunk_bytes,
            copies=copies.placement.copies,
        )
        return self._submit(checkpoint, plan, copies, priority, use_page_cache)

    def _submit(
        self,
        checkpoint: Checkpoint,
        plan: LoadPlan,
        copies: DeviceCopies | None,
        priority: int,
        use_page_cache: bool,
    ) -> Load:
        memories = copies.memories if copies else ()
        self._disks.use(checkpoint.files)
        with self._lock:
            native = self._native.submit(
                plan.files,
                plan.chunks,
                priority,
                use_page_cache,
                [(memory.device.native, memory.native) for memory in memories],
                plan.copies,
                plan.staging,
            )
            load = Load(
                native,
                self._native,
                checkpoint,
                plan=plan,
                n_links=len({memory.device.name for memory in memories}),
                disks=self._disks,
                ledger=self._ledger,
            )
            self._loads[native.id] = load
            return load

    def finished(self) -> list[Load]:
        """Return the loads that have ended since the last call, and that somebody still holds."""
        with self._lock:
            ended = [self._loads.pop(native.id, None) for native in self._native.finished()]
        return [load for load in ended if load is not None]

    def close(self) -> None:
        """Cancel what runs and wait until nothing is written any more."""
        self._native.close()
