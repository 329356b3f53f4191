"""Connections to nodes and controllers."""

from __future__ import annotations

import grpc

MAX_MESSAGE_BYTES = 16 << 20
"""A prompt of a million tokens takes 5 MB, a report of ten thousand checkpoints 4 MB."""

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

    def get(self, address: str) -> grpc.aio.Channel:
        """Return the connection to host:port, which begins to connect."""
        channel = self._by_address.get(address)
        if channel is None:
            channel = self._by_address[address] = open_channel(address)
            channel.get_state(try_to_connect=True)
        return channel

    async def forget(self, address: str) -> None:
        """Close the connection to an address; its calls end."""
        channel = self._by_address.pop(address, None)
        if channel is not None:
            await channel.close()

    async def close(self) -> None:
        """Close all connections."""
        for address in list(self._by_address):
            await self.forget(address)
