"""The memory that checkpoints are loaded into."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from dataclasses import dataclass

from pilotlight.native_loader import _native
from pilotlight.native_loader.errors import PoolClosed, PoolTooSmall
from pilotlight.native_loader.formats.parts import CHUNK_BYTES
from pilotlight.native_loader.memory.memory_limits import available_memory_bytes
from pilotlight.native_loader.memory.population import Population

_USABLE_SHARE = 0.9
"""Of the available memory: the rest is for page tables, workers and everybody else."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Accounts:
    """How many chunks are where: free + cached + bound == total, always."""

    free: int
    cached: int
    bound: int
    total: int


class ChunkPool:
    """Memory cut into chunks, each free, cached or bound. Thread-safe.

    Chunks get their memory when they are first loaded into, by `populate` or in the
    background; memory that is not there is a typed error then, never a signal. It is a
    memfd: others who have the descriptor can map chunks privately, but never write into
    them or resize it. A pool that is not shared is had sooner, and is of use in
    this process only. Operations on several chunks change all of them, or none.
    """

    def __init__(
        self,
        capacity_bytes: int,
        *,
        chunk_bytes: int = CHUNK_BYTES,
        node: int | None = None,
        is_shared: bool = True,
    ) -> None:
        """Reserve addresses for as many whole chunks as fit, no more than memory allows.

        The memory is spread over the machine's memory nodes, or comes from `node` as
        long as that has some.

        Raises:
            PoolTooSmall: not one chunk fits.
            MemoryRefused: the kernel gives no addresses.
        """
        available = available_memory_bytes()
        allowed = capacity_bytes
        if available is not None:
            allowed = min(capacity_bytes, int(available * _USABLE_SHARE))
        n_chunks = allowed // max(chunk_bytes, 1)
        if n_chunks < 1:
            raise PoolTooSmall(allowed, chunk_bytes)
        self._native: _native.ChunkPool | None = _native.ChunkPool(
            n_chunks, chunk_bytes, node, is_shared
        )
        self._n_populated = 0
        self._population: Population | None = None

    @property
    def native(self) -> _native.ChunkPool:
        """Return what the loader writes into.

        Raises:
            PoolClosed: as does everything else once the pool is closed.
        """
        if self._native is None:
            raise PoolClosed
        return self._native

    @property
    def fd(self) -> int:
        """Return the memory's descriptor, to be sent to workers; -1 if it is not shared."""
        return self.native.fd

    @property
    def is_shared(self) -> bool:
        """Whether other processes can have the memory."""
        return self.native.is_shared

    @property
    def n_chunks(self) -> int:
        """Return how many chunks there are in all."""
        return self.native.n_chunks

    @property
    def chunk_bytes(self) -> int:
        """Return the size of a chunk."""
        return self.native.chunk_bytes

    @property
    def capacity_bytes(self) -> int:
        """Return the size of all chunks, which may be less than was asked for."""
        return self.n_chunks * self.chunk_bytes

    @property
    def populated_bytes(self) -> int:
        """Return how much memory the pool has been given so far; it keeps it until its end."""
        return self.native.populated_bytes

    @property
    def huge_bytes(self) -> int:
        """Return the part of `populated_bytes` that has huge pages, 0 if it is not shared.

        The kernel does not tell of private memory.
        """
        return self.native.huge_bytes

    @property
    def node_refusal(self) -> str:
        """Return why the memory's node could not be chosen, "" where it could or need not."""
        return self.native.node_refusal

    def accounts(self) -> Accounts:
        """Count the chunks."""
        counts = self.native.accounts()
        return Accounts(
            free=counts.free, cached=counts.cached, bound=counts.bound, total=counts.total
        )

    def allocate(self, n: int) -> list[int]:
        """Move `n` free chunks to cached and return them, lowest first.

        Raises:
            PoolExhausted: there are fewer.
        """
        return self.native.allocate(n)

    def bind(self, chunks: Sequence[int]) -> None:
        """Move cached chunks to bound.

        Raises:
            ChunkStateError: one is not cached, or a load still writes into it.
        """
        self.native.bind(chunks)

    def unbind(self, chunks: Sequence[int]) -> None:
        """Move bound chunks back to cached.

        Raises:
            ChunkStateError: one is not bound.
        """
        self.native.unbind(chunks)

    def release(self, chunks: Sequence[int]) -> None:
        """Move cached chunks to free.

        Raises:
            ChunkStateError: one is not cached, or a load still writes into it.
        """
        self.native.release(chunks)

    def populate(self, n_chunks: int | None = None) -> None:
        """Give memory to the first `n_chunks` chunks, all by default, ahead of loads.

        Loads into such chunks run at the disk's speed from the first one on.
        Safe beside loads, in a thread of its own: it takes about a second per GB.

        Raises:
            MemoryRefused: the kernel has no memory.
        """
        wanted = self.n_chunks if n_chunks is None else min(n_chunks, self.n_chunks)
        for chunk in range(self._n_populated, wanted):
            self.native.populate(chunk)
            self._n_populated = chunk + 1

    def populate_in_background(self) -> Population:
        """Begin to give memory to all chunks, lowest first, whenever no load does so.

        It ends with the pool; asking twice is no error.
        """
        if self._population is None:
            self._population = Population(self.native, available_memory_bytes)
            weakref.finalize(self, self._population.stop_soon)
            self._population.start()
        return self._population

    def check_integrity(self) -> None:
        """Recount the accounts from the chunks; a difference is a RuntimeError."""
        self.native.check_integrity()

    def close(self) -> None:
        """Refuse everything from now on; the memory goes when nothing maps it any more.

        Its loaders are closed first, for they hold it too. Closing twice is no error.

        Raises:
            PoolBusy: loads write into it.
        """
        if self._native is not None:
            self._native.close()
            self._native = None
        if self._population is not None:
            self._population.stop()
