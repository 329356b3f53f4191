"""Carries out what the core wants of chunks and loads."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from pilotlight.native_loader import (
    Checkpoint,
    ChecksumMismatch,
    ChunkPool,
    FileChanged,
    Load,
    LoadCancelled,
    Loader,
    LoaderError,
    WeightLayout,
)
from pilotlight.store_node.core.actions import CancelLoad, PromoteLoad, SubmitLoad
from pilotlight.store_node.core.errors import BrokenInvariant
from pilotlight.store_node.core.events import Event, LoadFailed, LoadProgressed, LoadSucceeded
from pilotlight.store_node.protocol import ChecksumState, PoolAccounts, Reference
from pilotlight.store_node.protocol.refusals import ErrorCode
from pilotlight.store_node.storage.catalogue import Catalogue

PROGRESS_PERIOD_SECONDS = 0.25
"""How often loads say how far they are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Held:
    """A checkpoint's chunks in the pool."""

    checkpoint: Checkpoint
    chunks: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Running:
    """A load in flight."""

    load: Load
    held: _Held


class Arena:
    """The chunk pool and its loader, by the names that the core uses."""

    def __init__(
        self,
        pool: ChunkPool,
        loader: Loader,
        catalogue: Catalogue,
        *,
        tasks: asyncio.TaskGroup,
        post: Callable[[Event], None],
    ) -> None:
        self._pool = pool
        self._loader = loader
        self._catalogue = catalogue
        self._tasks = tasks
        self._post = post
        self._held: dict[Reference, _Held] = {}
        self._loads: dict[str, _Running] = {}
        self._names: dict[str, str] = {}

    def watch(self) -> None:
        """Take note of loads that end, from now on, in the running event loop."""
        loop = asyncio.get_running_loop()
        loop.add_reader(self._loader.completion_fd, self._collect)

    def unwatch(self) -> None:
        """Take note no more."""
        asyncio.get_running_loop().remove_reader(self._loader.completion_fd)

    @property
    def fd(self) -> int:
        """The pool's descriptor, for workers."""
        return self._pool.fd

    def allocate(self, reference: Reference, n_chunks: int) -> None:
        """Take free chunks for the copy that the last scan found."""
        found = self._catalogue.find(reference)
        assert found is not None
        assert found.checkpoint is not None, f"{reference} can't be opened"
        chunks = tuple(self._pool.allocate(n_chunks))
        self._held[reference] = _Held(checkpoint=found.checkpoint, chunks=chunks)

    def bind(self, reference: Reference) -> None:
        """Move chunks to the bound account."""
        self._pool.bind(self._held[reference].chunks)

    def unbind(self, reference: Reference) -> None:
        """Move chunks to the cached account."""
        self._pool.unbind(self._held[reference].chunks)

    def release(self, reference: Reference) -> None:
        """Give chunks back."""
        self._pool.release(self._held.pop(reference).chunks)

    def layout(self, reference: Reference) -> WeightLayout:
        """Return how a worker maps a checkpoint."""
        held = self._held[reference]
        return WeightLayout.of(held.checkpoint, held.chunks, self._pool.chunk_bytes)

    def submit(self, action: SubmitLoad) -> None:
        """Begin a load."""
        held = self._held[action.reference]
        try:
            load = self._loader.submit(held.checkpoint, held.chunks, priority=action.priority)
        except LoaderError as exc:
            self._post(_failure(action.load_id, exc))
            return
        self._loads[action.load_id] = _Running(load=load, held=held)
        self._names[load.id] = action.load_id

    def promote(self, action: PromoteLoad) -> None:
        """Give a load in flight another priority."""
        running = self._loads.get(action.load_id)
        if running is not None:
            running.load.promote(action.priority)

    def cancel(self, action: CancelLoad) -> None:
        """End a load soon."""
        running = self._loads.get(action.load_id)
        if running is not None:
            running.load.cancel()

    def report_progress(self) -> None:
        """Say how far all loads are."""
        for load_id, running in list(self._loads.items()):
            done_bytes = running.load.progress().done_bytes
            self._post(LoadProgressed(load_id=load_id, done_bytes=done_bytes))

    def check_accounts(self, accounts: PoolAccounts) -> None:
        """Raise BrokenInvariant where the core's accounts are not the pool's.

        The pool calls chunks that a load writes to cached, whoever pays for them.
        """
        pool, size = self._pool.accounts(), self._pool.chunk_bytes
        n_loading = sum(len(each.held.chunks) for each in self._loads.values())
        n_free, n_bound = accounts.free_bytes // size, accounts.bound_bytes // size
        if pool.free != n_free or not pool.bound <= n_bound <= pool.bound + n_loading:
            raise BrokenInvariant(f"the core has {accounts}, the pool {pool}")

    def _collect(self) -> None:
        for load in self._loader.finished():
            self._tasks.create_task(self._settle(load))

    async def _settle(self, load: Load) -> None:
        """Report a load's end; its result is fetched in a thread, for it writes what it learned."""
        load_id = self._names[load.id]
        event = await asyncio.to_thread(_end_of, load_id, load)
        del self._loads[load_id], self._names[load.id]
        self._post(event)


def _end_of(load_id: str, load: Load) -> LoadSucceeded | LoadFailed:
    try:
        result = load.result(0)
    except LoaderError as exc:
        return _failure(load_id, exc)
    return LoadSucceeded(
        load_id=load_id,
        bytes_read=result.bytes_read,
        queue_seconds=result.queue_seconds,
        busy_seconds=result.busy_seconds if result.tells_disk_speed else 0.0,
        checksum=ChecksumState(result.checksum),
        bytes_digest=result.bytes_digest,
        bottleneck=result.bottleneck,
    )


def _failure(load_id: str, error: LoaderError) -> LoadFailed:
    return LoadFailed(load_id=load_id, code=_code_of(error), message=str(error))


def _code_of(error: LoaderError) -> ErrorCode | None:
    if isinstance(error, LoadCancelled):
        return None
    if isinstance(error, ChecksumMismatch):
        return ErrorCode.CHECKSUM_MISMATCH
    if isinstance(error, FileChanged):
        return ErrorCode.FILE_CHANGED
    return ErrorCode.READ_FAILED
