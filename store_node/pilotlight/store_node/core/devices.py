"""Device leases: exclusive, granted by the node, held by one replica each."""

from __future__ import annotations

from pilotlight.store_node.core.errors import BrokenInvariant
from pilotlight.store_node.protocol import ReplicaId


class DeviceLeases:
    """Who holds which device."""

    def __init__(self, n_devices: int) -> None:
        self._holders: list[ReplicaId | None] = [None] * n_devices

    @property
    def n_devices(self) -> int:
        """All devices of the node."""
        return len(self._holders)

    @property
    def n_free(self) -> int:
        """Devices that nobody holds."""
        return self._holders.count(None)

    def held_by(self, replica: ReplicaId) -> tuple[int, ...]:
        """Return the indices of the devices that a replica holds."""
        return tuple(i for i, holder in enumerate(self._holders) if holder == replica)

    def holders(self) -> set[ReplicaId]:
        """Return everyone who holds a device."""
        return {holder for holder in self._holders if holder is not None}

    def grant(self, replica: ReplicaId, n_devices: int) -> tuple[int, ...]:
        """Lease the first free devices to a replica; there must be as many."""
        free = [i for i, holder in enumerate(self._holders) if holder is None][:n_devices]
        if len(free) < n_devices or self.held_by(replica):
            raise BrokenInvariant(f"can't lease {n_devices} devices to {replica}: {self._holders}")
        for index in free:
            self._holders[index] = replica
        return tuple(free)

    def give_back(self, replica: ReplicaId) -> None:
        """End a replica's lease."""
        self._holders = [None if holder == replica else holder for holder in self._holders]
