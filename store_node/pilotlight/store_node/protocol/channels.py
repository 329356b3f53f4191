"""Connections to nodes and controllers."""

from __future__ import annotations

import asyncio

import grpc

MAX_MESSAGE_BYTES = 16 << 20
"""A prompt of a million tokens takes 5 MB, a report of ten thousand checkpoints 4 MB."""

LINGER_SECONDS = 120.0
"""Of a connection that is forgotten; commands have shorter deadlines."""

OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    # A proxy is never meant for what passes inside of a cluster.
    ("grpc.enable_http_proxy", 0),
    # Who restarts is found again at once, not after a minute.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
)


def open_channel(address: str) -> grpc.aio.Channel:
    """Return a channel to host:port; it connects when it is first used."""
    return grpc.aio.insecure_channel(address, options=OPTIONS)


class Channels:
    """One connection per address, kept until it is forgotten."""

    def __init__(self) -> None:
        self._by_address: dict[str, grpc.aio.Channel] = {}
        self._lingering: dict[asyncio.TimerHandle, grpc.aio.Channel] = {}
        self._closing: set[asyncio.Task[None]] = set()

    def get(self, address: str) -> grpc.aio.Channel:
        """Return the connection to host:port, which begins to connect."""
        channel = self._by_address.get(address)
        if channel is None:
            channel = self._by_address[address] = open_channel(address)
            channel.get_state(try_to_connect=True)
        return channel

    def forget(self, address: str) -> None:
        """Close the connection to an address, once whoever still calls over it has ended."""
        channel = self._by_address.pop(address, None)
        if channel is None:
            return

        def close() -> None:
            del self._lingering[timer]
            closing = loop.create_task(channel.close())
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)

        loop = asyncio.get_running_loop()
        timer = loop.call_later(LINGER_SECONDS, close)
        self._lingering[timer] = channel

    async def close(self) -> None:
        """Close all connections; their calls end."""
        for timer in self._lingering:
            timer.cancel()
        channels = [*self._by_address.values(), *self._lingering.values()]
        self._by_address.clear()
        self._lingering.clear()
        for channel in channels:
            await channel.close()
        await asyncio.gather(*self._closing)
