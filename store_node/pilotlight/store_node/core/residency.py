"""Which checkpoints lie in the node's chunk pool, and on whose account.

Theory of operation. The pool has room for the DRAM tier plus everything that
the devices may hold. A *residency* is one checkpoint in it, all its chunks
together: first loading, then loaded; its account is CACHED (the DRAM tier's) or
BOUND (the devices'). Replicas *hold* a residency from the start of their start
until their worker is dead; it is BOUND exactly while it has holders. A device
of kind "cpu" computes on the very chunks, so binding moves them from one
account to the other and copies nothing: a checkpoint is never counted twice,
and two replicas of one checkpoint share it. When the last holder lets go, the
chunks go back to the DRAM tier if the evictor can make room there, else they
are freed. The pool itself calls chunks that a load writes to cached, whoever
pays for them: they are bound there when the load has ended.

A device with memory of its own copies instead: there a holder would take memory
of the device and leave the residency CACHED. That difference lies in `hold`,
`let_go` and `check_integrity` alone.

Why room never lacks: cached chunks never exceed the DRAM tier, and bound ones
never exceed what the leased devices hold, for a replica keeps its lease as long
as it holds chunks. So the rest is free for whoever leases the other devices.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from pilotlight.store_node.core.actions import (
    Action,
    AllocateChunks,
    BindChunks,
    ReleaseChunks,
    ReportCheckpoint,
    UnbindChunks,
)
from pilotlight.store_node.core.copies import CheckpointCopy
from pilotlight.store_node.core.errors import BrokenInvariant
from pilotlight.store_node.core.eviction import Evictable, Evictor, LruEvictor
from pilotlight.store_node.core.worth import Worth
from pilotlight.store_node.protocol import ChannelId, Reference, ReplicaId
from pilotlight.store_node.protocol.values import content_name


@dataclass(frozen=True, slots=True, kw_only=True)
class Capacity:
    """What a node has, in chunks."""

    n_devices: int
    device_chunks: int
    """Most chunks bound per leased device."""
    dram_chunks: int
    """Most chunks cached."""
    chunk_bytes: int

    @property
    def total_chunks(self) -> int:
        """Chunks of the pool."""
        return self.dram_chunks + self.n_devices * self.device_chunks


class Account(enum.StrEnum):
    """Who pays for a residency."""

    CACHED = "cached"
    BOUND = "bound"


@dataclass(slots=True, kw_only=True)
class Residency:
    """One checkpoint's chunks in the pool."""

    reference: Reference
    identity: str
    """Of the copy that the chunks are read from."""
    content_id: str
    layout_id: str
    bytes_digest: str = ""
    """Of the chunks, once loaded."""
    n_chunks: int
    ssd_channel: ChannelId
    account: Account
    last_used: float
    is_loaded: bool = False
    is_stale: bool = False
    """The copy on disk has changed: to be freed rather than cached."""
    holders: set[ReplicaId] = field(default_factory=set[ReplicaId])

    @property
    def content(self) -> str:
        """What the bytes are, as exactly as it is known."""
        return content_name(self.content_id, self.layout_id, self.bytes_digest)


class ChunkLedger:
    """The accounts of the pool, and the rules by which chunks move between them."""

    def __init__(
        self, capacity: Capacity, evictor: Evictor, worth: Worth, emit: Callable[[Action], None]
    ) -> None:
        self._capacity = capacity
        self._evictor = evictor
        self._worth = worth
        self._emit = emit
        self._residencies: dict[Reference, Residency] = {}
        self._pinned: set[Reference] = set()

    def __iter__(self) -> Iterator[Residency]:
        return iter(self._residencies.values())

    def __getitem__(self, reference: Reference) -> Residency:
        return self._residencies[reference]

    def get(self, reference: Reference) -> Residency | None:
        """Return what of a checkpoint is in the pool."""
        return self._residencies.get(reference)

    def n_chunks(self, account: Account) -> int:
        """Return how many chunks an account has."""
        return sum(each.n_chunks for each in self if each.account is account)

    def is_pinned(self, reference: Reference) -> bool:
        """Whether a checkpoint, once in DRAM, stays."""
        return reference in self._pinned

    def pin(self, reference: Reference, *, pinned: bool) -> None:
        """Keep a checkpoint in DRAM from now on, or no longer."""
        (self._pinned.add if pinned else self._pinned.discard)(reference)
        self._emit(ReportCheckpoint(reference=reference))

    def hold(self, copy: CheckpointCopy, replica: ReplicaId, *, now: float) -> Residency:
        """Give a checkpoint, loaded or yet to be loaded, to a replica that has its devices."""
        residency = self._residencies.get(copy.reference)
        if residency is None:
            residency = self._allocate(copy, now)
        if residency.account is Account.CACHED:
            residency.account = Account.BOUND
            if residency.is_loaded:
                self._emit(BindChunks(reference=copy.reference))
        residency.holders.add(replica)
        self._touch(residency, now)
        return residency

    def let_go(
        self,
        reference: Reference,
        replica: ReplicaId,
        *,
        evict: Sequence[Reference] = (),
        now: float,
    ) -> bool:
        """Take a checkpoint from a replica whose worker is dead.

        What nobody holds any more goes back to DRAM if there is room or room can
        be made, best by evicting `evict`. Returns False, with nothing changed,
        where it fits nowhere and can't be freed, for a load still writes to it.
        """
        residency = self._residencies[reference]
        if residency.holders == {replica}:
            fits = not residency.is_stale and self._make_room(residency.n_chunks, evict, now)
            if not fits and not residency.is_loaded:
                return False
            residency.account = Account.CACHED
            if residency.is_loaded:
                self._emit(UnbindChunks(reference=reference))
            if not fits:
                self._free(residency)
        residency.holders.remove(replica)
        residency.last_used = now
        self._emit(ReportCheckpoint(reference=reference))
        return True

    def cache(self, copy: CheckpointCopy, *, now: float) -> Residency | None:
        """Give a checkpoint chunks in DRAM, or return None where there is no room."""
        if not self._make_room(copy.n_chunks, (), now):
            return None
        return self._allocate(copy, now)

    def complete(self, reference: Reference, *, bytes_digest: str, now: float) -> Residency:
        """Note that a checkpoint is loaded."""
        residency = self._residencies[reference]
        residency.is_loaded = True
        residency.bytes_digest = bytes_digest
        self._touch(residency, now)
        if residency.account is Account.BOUND:
            self._emit(BindChunks(reference=reference))
        elif residency.is_stale:
            self._free(residency)
        return residency

    def abandon(self, reference: Reference) -> set[ReplicaId]:
        """Free a checkpoint whose load has ended without success; return who held it."""
        residency = self._residencies[reference]
        self._free(residency)
        return residency.holders

    def mark_stale(self, reference: Reference) -> None:
        """Note that a copy has changed on disk: what is cached of it goes."""
        residency = self._residencies.get(reference)
        if residency is None:
            return
        residency.is_stale = True
        if residency.account is Account.CACHED and residency.is_loaded:
            self._free(residency)

    def evict(self, reference: Reference) -> None:
        """Drop an evictable checkpoint."""
        self._free(self._residencies[reference])

    def is_evictable(self, residency: Residency) -> bool:
        """Whether a checkpoint may leave DRAM."""
        return (
            residency.account is Account.CACHED
            and residency.is_loaded
            and residency.reference not in self._pinned
        )

    def check_integrity(self) -> None:
        """Raise BrokenInvariant where the accounts don't add up."""
        cached, bound = self.n_chunks(Account.CACHED), self.n_chunks(Account.BOUND)
        if cached > self._capacity.dram_chunks or cached + bound > self._capacity.total_chunks:
            raise BrokenInvariant(f"{cached} cached and {bound} bound exceed {self._capacity}")
        for each in self:
            if (each.account is Account.BOUND) != bool(each.holders):
                raise BrokenInvariant(f"{each.reference}: {each.account} held by {each.holders}")

    def _allocate(self, copy: CheckpointCopy, now: float) -> Residency:
        residency = Residency(
            reference=copy.reference,
            identity=copy.identity,
            content_id=copy.content_id,
            layout_id=copy.layout_id,
            n_chunks=copy.n_chunks,
            ssd_channel=copy.ssd_channel,
            account=Account.CACHED,
            last_used=now,
        )
        self._residencies[copy.reference] = residency
        self._emit(AllocateChunks(reference=copy.reference, n_chunks=copy.n_chunks))
        self._emit(ReportCheckpoint(reference=copy.reference))
        return residency

    def _free(self, residency: Residency) -> None:
        del self._residencies[residency.reference]
        self._emit(ReleaseChunks(reference=residency.reference))
        self._emit(ReportCheckpoint(reference=residency.reference))

    def _touch(self, residency: Residency, now: float) -> None:
        residency.last_used = now
        self._emit(ReportCheckpoint(reference=residency.reference))

    def _make_room(self, n_chunks: int, evict: Sequence[Reference], now: float) -> bool:
        """Evict until that many chunks fit in DRAM; where they never will, evict nothing."""
        free = self._capacity.dram_chunks - self.n_chunks(Account.CACHED)
        candidates = {each.reference: each for each in self if self.is_evictable(each)}
        if free + sum(each.n_chunks for each in candidates.values()) < n_chunks:
            return False
        for reference in self._order(candidates, evict, n_chunks - free, now):
            if free >= n_chunks:
                break
            free += candidates[reference].n_chunks
            self._free(candidates[reference])
        return True

    def _order(
        self,
        candidates: Mapping[Reference, Residency],
        evict: Sequence[Reference],
        shortage: int,
        now: float,
    ) -> list[Reference]:
        """Return all candidates, those that go first in front."""
        if shortage <= 0:
            return []
        offered = [self._offer(each, now) for each in candidates.values()]
        needed_bytes = shortage * self._capacity.chunk_bytes
        chosen = self._evictor.choose(offered, needed_bytes=needed_bytes, now=now)
        everything = sum(each.size_bytes for each in offered)
        rest = LruEvictor().choose(offered, needed_bytes=everything, now=now)
        return [each for each in dict.fromkeys([*evict, *chosen, *rest]) if each in candidates]

    def _offer(self, residency: Residency, now: float) -> Evictable:
        reference, size_bytes = residency.reference, residency.n_chunks * self._capacity.chunk_bytes
        return Evictable(
            reference=reference,
            size_bytes=size_bytes,
            last_used=residency.last_used,
            load_seconds=self._worth.load_seconds(
                reference, size_bytes=size_bytes, channel_id=residency.ssd_channel
            ),
            uses_per_second=self._worth.uses_per_second(reference, now=now),
        )
