"""Keeps the core's view of the disks current: which checkpoints there are, and how fast."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path

import structlog

from pilotlight.native_loader import CheckpointFile
from pilotlight.store_node.core.events import CopiesFound, Event, PaceFound
from pilotlight.store_node.doors.changes import Changes
from pilotlight.store_node.doors.reporter import Reporter
from pilotlight.store_node.protocol import Channel, ChannelId
from pilotlight.store_node.storage.catalogue import Catalogue
from pilotlight.store_node.storage.disks import DiskProbe, ProbeTarget

log = structlog.get_logger(__name__)


class Scanner:
    """Looks through the model roots, and measures each disk that holds a checkpoint once."""

    def __init__(
        self,
        catalogue: Catalogue,
        *,
        probe: DiskProbe,
        reporter: Reporter,
        changes: Changes,
        post: Callable[[Event], None],
        on_found: Callable[[Sequence[Path]], None],
    ) -> None:
        self._catalogue = catalogue
        self._probe = probe
        self._reporter = reporter
        self._changes = changes
        self._post = post
        self._on_found = on_found
        self._scanning = asyncio.Lock()
        self._known: set[ChannelId] = set()
        self._probed: set[ChannelId] = set()

    def announce(self) -> None:
        """Tell the core what the last scan found."""
        copies = self._catalogue.copies()
        self._post(CopiesFound(copies=copies))
        self._on_found(self._catalogue.usable_directories())
        disks = {copy.ssd_channel for copy in copies if copy.ssd_channel}
        for channel_id in sorted(disks - self._known):
            self._known.add(channel_id)
            self._tell(self._probe.assume(channel_id))
        log.info(
            "checkpoints found",
            usable=sum(not copy.problem for copy in copies),
            unusable=sum(bool(copy.problem) for copy in copies),
        )

    async def rescan(self) -> None:
        """Look at everything again, in a thread."""
        async with self._scanning:
            found = await asyncio.to_thread(self._catalogue.scan)
            if self._catalogue.adopt(found):
                self.announce()

    async def rescan_for_ever(self, period_seconds: float, *, is_measuring: bool) -> None:
        """Rescan every so often, and measure disks that are new where that is wanted."""
        while True:
            await asyncio.sleep(period_seconds)
            await self.rescan()
            if is_measuring:
                await self.measure()

    async def measure(self) -> None:
        """Measure the disks that hold checkpoints and were not measured before, one by one."""
        for target in self._targets():
            self._probed.add(target.channel_id)
            channel = await asyncio.to_thread(self._probe.measure, target)
            if channel is not None:
                log.info(
                    "disk measured",
                    channel=channel.channel_id,
                    bytes_per_second=round(channel.bytes_per_second),
                    latency_seconds=round(channel.latency_seconds, 6),
                )
                self._tell(channel)

    def _targets(self) -> list[ProbeTarget]:
        """Return the largest weight file on each disk."""
        largest: dict[ChannelId, CheckpointFile] = {}
        for copy in self._catalogue.copies():
            found = self._catalogue.find(copy.reference)
            checkpoint = found.checkpoint if found is not None else None
            if checkpoint is None or copy.ssd_channel in self._probed:
                continue
            file = max(checkpoint.files, key=lambda each: each.size_bytes)
            known = largest.get(copy.ssd_channel)
            if known is None or file.size_bytes > known.size_bytes:
                largest[copy.ssd_channel] = file
        return [
            ProbeTarget(channel_id=channel_id, file=file) for channel_id, file in largest.items()
        ]

    def _tell(self, channel: Channel) -> None:
        self._reporter.note_channel(channel)
        self._changes.note_channel(channel)
        self._post(
            PaceFound(channel_id=channel.channel_id, bytes_per_second=channel.bytes_per_second)
        )
