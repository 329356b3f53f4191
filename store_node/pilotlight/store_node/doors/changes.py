"""What has changed on the node since the controller was last told."""

from __future__ import annotations

import asyncio

from pilotlight.store_node.core.reports import Reports
from pilotlight.store_node.protocol import Channel, ChannelId, NodeUpdate, Reference, ReplicaId


class Changes:
    """Names of what has changed, coalesced until somebody takes them.

    Without a session nothing is lost but time: the next one begins with a full
    report and drops what is noted here.
    """

    def __init__(self) -> None:
        self._replicas: dict[ReplicaId, None] = {}
        self._references: dict[Reference, None] = {}
        self._channels: dict[ChannelId, Channel] = {}
        self._are_loads_noted = False
        self._is_idle_noted = False
        self._noted = asyncio.Event()
        self._taken = asyncio.Event()

    def note_replica(self, replica_id: ReplicaId) -> None:
        """A replica's status has changed."""
        self._replicas[replica_id] = None
        self._noted.set()

    def note_checkpoint(self, reference: Reference) -> None:
        """A checkpoint's status has changed, or it is gone."""
        self._references[reference] = None
        self._noted.set()

    def note_loads(self) -> None:
        """A load has begun, ended or got on; every update lists all loads."""
        self._are_loads_noted = True
        self._noted.set()

    def note_idle(self) -> None:
        """A replica fell idle; the next heartbeat, which says so, may come early."""
        self._is_idle_noted = True
        self._noted.set()

    @property
    def is_idle_noted(self) -> bool:
        """Return whether a replica fell idle since the last heartbeat."""
        return self._is_idle_noted

    def clear_idle(self) -> None:
        """A heartbeat has said it."""
        self._is_idle_noted = False

    def note_channel(self, channel: Channel) -> None:
        """A channel was measured."""
        self._channels[channel.channel_id] = channel
        self._noted.set()

    async def wait(self) -> None:
        """Wait until something is noted."""
        await self._noted.wait()

    async def wait_taken(self) -> None:
        """Wait until nothing is noted."""
        while self._noted.is_set():
            self._taken.clear()
            await self._taken.wait()

    def clear(self) -> None:
        """Forget what is noted."""
        self._replicas.clear()
        self._references.clear()
        self._channels.clear()
        self._are_loads_noted = False
        self._noted.clear()
        self._taken.set()

    def take(self, reports: Reports) -> NodeUpdate | None:
        """Return an update with all that is noted, as it is now; None where nothing is."""
        if not self._has_changes():
            self.clear()
            return None
        statuses = {reference: reports.checkpoint(reference) for reference in self._references}
        replicas = [reports.replica(replica_id) for replica_id in self._replicas]
        update = NodeUpdate(
            checkpoints=tuple(each for each in statuses.values() if each is not None),
            removed_checkpoints=tuple(ref for ref, each in statuses.items() if each is None),
            replicas=tuple(each for each in replicas if each is not None),
            loads=reports.loads(),
            channels=tuple(self._channels.values()),
        )
        self.clear()
        return update

    def _has_changes(self) -> bool:
        noted = (self._replicas, self._references, self._channels, self._are_loads_noted)
        return any(noted)
