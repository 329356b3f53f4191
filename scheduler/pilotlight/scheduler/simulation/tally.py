"""What the controller did in a run: its starts, and for how long devices were held."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from pilotlight.scheduler.core.actions import (
    AnyAction,
    Persist,
    Publish,
    ReplicaChanged,
    StartFinished,
)
from pilotlight.store_node.protocol import ReplicaId, ReplicaState


@dataclass(slots=True, kw_only=True)
class _Holding:
    """Devices that a replica holds."""

    devices: int
    since: float
    ready_at: float | None = None


@dataclass(slots=True)
class Tally:
    """Counts what the core's actions say."""

    starts: dict[ReplicaId, StartFinished] = field(default_factory=dict[ReplicaId, StartFinished])
    """Those that ended, by replica; the last word on each."""
    started_at: dict[ReplicaId, float] = field(default_factory=dict[ReplicaId, float])
    """When each of them was READY, or failed."""
    ended_at: dict[ReplicaId, float] = field(default_factory=dict[ReplicaId, float])
    """When each of them had let go of its devices."""
    published: Counter[str] = field(default_factory=Counter[str])
    """How often each kind of thing happened."""
    _device_seconds: float = 0.0
    _loading_device_seconds: float = 0.0
    _held: dict[ReplicaId, _Holding] = field(default_factory=dict[ReplicaId, _Holding])

    def note(self, action: AnyAction, now: float) -> None:
        """Take an action of the core into account."""
        if isinstance(action, Publish):
            self.published[action.kind] += 1
        elif isinstance(action, Persist):
            for change in action.changes:
                if isinstance(change, ReplicaChanged):
                    self._replica_changed(change, now)
                elif isinstance(change, StartFinished):
                    self.starts[change.replica] = change
                    self.started_at.setdefault(change.replica, now)

    def device_seconds(self, now: float) -> tuple[float, float]:
        """Return for how long replicas have held devices, and of that before they were READY.

        A replica holds its devices from its decision until they are free again.
        """
        held = [_seconds(each, now) for each in self._held.values()]
        whole = self._device_seconds + sum(seconds for seconds, _ in held)
        return whole, self._loading_device_seconds + sum(loading for _, loading in held)

    def _replica_changed(self, change: ReplicaChanged, now: float) -> None:
        held = self._held.get(change.replica)
        if change.state in (ReplicaState.STOPPED, ReplicaState.FAILED):
            self.ended_at[change.replica] = now
            if held is not None:
                self._let_go(change.replica, now)
        elif held is None:
            self._held[change.replica] = _Holding(devices=change.devices, since=now)
        elif change.state is ReplicaState.READY:
            held.ready_at = now

    def _let_go(self, replica: ReplicaId, now: float) -> None:
        whole, loading = _seconds(self._held.pop(replica), now)
        self._device_seconds += whole
        self._loading_device_seconds += loading


def _seconds(held: _Holding, now: float) -> tuple[float, float]:
    ready_at = now if held.ready_at is None else held.ready_at
    return held.devices * (now - held.since), held.devices * (ready_at - held.since)
