"""Messages as bytes: msgpack behind a length of four bytes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Generic, TypeVar

import msgspec

from pilotlight.store_node.errors import BrokenFrame
from pilotlight.store_node.workers.messages import Message

MAX_FRAME_BYTES = 64 << 20
"""Larger than any message: the layout of a checkpoint of 100,000 tensors has about 20 MB."""

_LENGTH_BYTES = 4

M = TypeVar("M", bound=Message)

_encoder = msgspec.msgpack.Encoder()


def encode_frame(message: Message) -> bytes:
    """Return a message's bytes.

    Raises:
        BrokenFrame: it is too large.
    """
    payload = _encoder.encode(message)
    if len(payload) > MAX_FRAME_BYTES:
        raise BrokenFrame(f"a {type(message).__name__} of {len(payload)} bytes is too large")
    return len(payload).to_bytes(_LENGTH_BYTES, "little") + payload


class FrameDecoder(Generic[M]):
    """Finds messages in a stream of bytes, however it is cut."""

    def __init__(self, messages: Any) -> None:
        """Take the type, or union of types, of the messages that may come."""
        self._decoder: msgspec.msgpack.Decoder[M] = msgspec.msgpack.Decoder(messages)
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[M]:
        """Add bytes; yield the messages that are complete.

        Raises:
            BrokenFrame: a frame is too large, or no message that may come.
        """
        self._buffer += data
        while len(self._buffer) >= _LENGTH_BYTES:
            length = int.from_bytes(self._buffer[:_LENGTH_BYTES], "little")
            if length > MAX_FRAME_BYTES:
                raise BrokenFrame(f"a frame of {length} bytes is announced")
            end = _LENGTH_BYTES + length
            if len(self._buffer) < end:
                return
            payload = bytes(memoryview(self._buffer)[_LENGTH_BYTES:end])
            del self._buffer[:end]
            try:
                yield self._decoder.decode(payload)
            except msgspec.DecodeError as error:
                raise BrokenFrame(f"a frame of {length} bytes is no message: {error}") from error
