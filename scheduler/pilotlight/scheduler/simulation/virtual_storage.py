"""The disk and the memory of a virtual node."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from pilotlight.scheduler.simulation.event_heap import EventHeap
from pilotlight.store_node.protocol import Reference


@dataclass(slots=True, kw_only=True)
class VirtualStorage:
    """One disk that serves loads in their order, and a cache that forgets the least recent."""

    heap: EventHeap
    checkpoints: Mapping[Reference, int]
    """Size in bytes of each checkpoint on disk."""
    bytes_per_second: float
    dram_bytes: int
    is_bound: Callable[[Reference], bool]
    """Whether a checkpoint belongs to replicas; then it does not count as cached."""
    loaded: Callable[[], None]
    """Called when a load has ended."""
    _disk_free_at: float = 0.0
    _loads: dict[Reference, float] = field(default_factory=dict[Reference, float])
    """When each load in flight ends."""
    _cached: OrderedDict[Reference, int] = field(default_factory=OrderedDict[Reference, int])

    def cached_bytes(self, reference: Reference) -> int:
        """Return what memory holds of a checkpoint for nobody in particular."""
        return self._cached.get(reference, 0)

    def load(self, reference: Reference) -> tuple[float, float]:
        """Begin or join a load; return how long it waits for the disk, and how long it takes."""
        now = self.heap.now
        if reference in self._loads:
            return 0.0, self._loads[reference] - now
        queue = max(self._disk_free_at - now, 0.0)
        transfer = self.checkpoints[reference] / self.bytes_per_second
        self._disk_free_at = self._loads[reference] = now + queue + transfer
        self.heap.call_at(self._disk_free_at, self._end, reference)
        return queue, transfer

    def keep(self, reference: Reference) -> None:
        """Keep a checkpoint in memory, unless replicas still do; forget others for it."""
        if self.is_bound(reference):
            return
        self._cached[reference] = self.checkpoints[reference]
        self._cached.move_to_end(reference)
        while sum(self._cached.values()) > self.dram_bytes:
            self._cached.popitem(last=False)

    def drop(self, reference: Reference) -> None:
        """Forget a checkpoint, or leave it to a replica."""
        self._cached.pop(reference, None)

    def _end(self, reference: Reference) -> None:
        del self._loads[reference]
        self.keep(reference)
        self.loaded()
