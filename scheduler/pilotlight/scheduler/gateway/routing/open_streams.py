"""The streams of all attempts that run, so that a replica's can be cut together."""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from contextlib import contextmanager
from types import TracebackType

from pilotlight.scheduler.gateway.routing.node_streams import NodeStream, NodeStreams
from pilotlight.store_node.protocol import GenerateRequest, ReplicaId


class OpenStreams:
    """Opens attempts and reads them, each until it ends or nobody wants it any more.

    Use it as an asynchronous context manager: leaving it waits for the last one.
    """

    def __init__(self, streams: NodeStreams) -> None:
        self._streams = streams
        self._open: dict[ReplicaId, set[NodeStream]] = {}
        self._tasks = asyncio.TaskGroup()

    async def __aenter__(self) -> OpenStreams:
        await self._tasks.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._tasks.__aexit__(kind, error, trace)

    @contextmanager
    def opened(self, address: str, request: GenerateRequest) -> Generator[NodeStream]:
        """Send an attempt to its node; leaving the block cancels it there."""
        stream = self._streams.open(address, request)
        of_replica = self._open.setdefault(request.replica_id, set())
        of_replica.add(stream)
        reading = self._tasks.create_task(stream.read())
        try:
            yield stream
        finally:
            # Before the place is given to another request, which must find the slot free.
            stream.cancel()
            reading.cancel()
            of_replica.discard(stream)
            if not of_replica:
                self._open.pop(request.replica_id, None)

    def cut(self, replica: ReplicaId, reason: str, code: str = "") -> None:
        """End all streams of a replica."""
        for stream in list(self._open.get(replica, ())):
            stream.give_up(reason, code)

    def cut_all(self, reason: str) -> None:
        """End all streams."""
        for replica in list(self._open):
            self.cut(replica, reason)
