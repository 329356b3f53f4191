"""Loads in flight: at most one per checkpoint, shared by all who want it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from pilotlight.store_node.core.actions import (
    Action,
    CancelLoad,
    PromoteLoad,
    ReportLoads,
    SubmitLoad,
)
from pilotlight.store_node.core.copies import CheckpointCopy
from pilotlight.store_node.protocol import ChannelId, Reference


@dataclass(slots=True, kw_only=True)
class LoadRecord:
    """One load, from its submission to its end."""

    load_id: str
    reference: Reference
    priority: int
    total_bytes: int
    channel_id: ChannelId
    submitted_at: float
    done_bytes: int = 0
    is_cancelling: bool = False

    @property
    def is_less_than_half_done(self) -> bool:
        """Whether giving it up wastes less than finishing it costs."""
        return 2 * self.done_bytes < self.total_bytes


class Loads:
    """All loads in flight."""

    def __init__(self, emit: Callable[[Action], None]) -> None:
        self._emit = emit
        self._loads: dict[str, LoadRecord] = {}
        self._wishes: dict[Reference, int] = {}
        self._next_number = 1

    def __iter__(self) -> Iterator[LoadRecord]:
        return iter(self._loads.values())

    def get(self, load_id: str) -> LoadRecord | None:
        """Return a load that has not ended."""
        return self._loads.get(load_id)

    def of(self, reference: Reference) -> LoadRecord | None:
        """Return the load of a checkpoint."""
        return next((each for each in self if each.reference == reference), None)

    def wish_of(self, reference: Reference) -> int | None:
        """Return the priority at which a load is wanted for itself, as a prefetch."""
        return self._wishes.get(reference)

    def wish_for(self, reference: Reference, priority: int) -> None:
        """Note that a load is wanted even if no replica is."""
        self._wishes[reference] = max(priority, self._wishes.get(reference, priority))

    def forget_wish(self, reference: Reference) -> None:
        """Note that a load is wanted for replicas only."""
        self._wishes.pop(reference, None)

    def ensure(self, copy: CheckpointCopy, priority: int, *, now: float) -> LoadRecord:
        """Begin the load of a checkpoint, or give the one in flight that priority if higher.

        One that is being cancelled goes on to its end: then, for those who still
        want it, another begins with its priority.
        """
        load = self.of(copy.reference)
        if load is None:
            return self._submit(copy, priority, now)
        if priority > load.priority:
            load.priority = priority
            if not load.is_cancelling:
                self._emit(PromoteLoad(load_id=load.load_id, priority=priority))
            self._emit(ReportLoads())
        return load

    def progress(self, load_id: str, done_bytes: int) -> None:
        """Note how far a load has got."""
        load = self._loads.get(load_id)
        if load is not None and done_bytes > load.done_bytes:
            load.done_bytes = done_bytes
            self._emit(ReportLoads())

    def cancel(self, load: LoadRecord) -> None:
        """End a load soon."""
        if not load.is_cancelling:
            load.is_cancelling = True
            self._emit(CancelLoad(load_id=load.load_id))
            self._emit(ReportLoads())

    def end(self, load_id: str) -> LoadRecord | None:
        """Forget a load that has ended."""
        load = self._loads.pop(load_id, None)
        if load is not None:
            self._emit(ReportLoads())
        return load

    def _submit(self, copy: CheckpointCopy, priority: int, now: float) -> LoadRecord:
        load = LoadRecord(
            load_id=f"load-{self._next_number}",
            reference=copy.reference,
            priority=priority,
            total_bytes=copy.size_bytes,
            channel_id=copy.ssd_channel,
            submitted_at=now,
        )
        self._next_number += 1
        self._loads[load.load_id] = load
        self._emit(SubmitLoad(load_id=load.load_id, reference=copy.reference, priority=priority))
        self._emit(ReportLoads())
        return load
