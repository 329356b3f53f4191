"""Token streams from nodes, over gRPC."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

import grpc

from pilotlight.store_node.protocol import (
    GenerateRequest,
    TokenBatch,
    store_node_pb2,
    store_node_pb2_grpc,
    wire,
)
from pilotlight.store_node.protocol.channels import Channels
from pilotlight.store_node.protocol.refusals import ErrorCode, Refusal
from pilotlight.store_node.protocol.statuses import refusal_of

MOST_UNREAD_BATCHES = 32_768
"""Some ten megabytes. A client that is further behind will not catch up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptEnded:
    """A stream that ended without a finish reason."""

    refusal: Refusal | None
    """What the node said; None where the connection broke."""
    reason: str

    @property
    def code(self) -> str | None:
        """Return the node's word for it."""
        return self.refusal.code if self.refusal else None


StreamItem = TokenBatch | AttemptEnded


if TYPE_CHECKING:
    _Call = grpc.aio.UnaryStreamCall[store_node_pb2.GenerateRequest, store_node_pb2.TokenBatch]


class NodeStream:
    """One attempt's tokens, read as they come so that a slow client holds up nobody."""

    def __init__(self, call: _Call) -> None:
        self._call = call
        self.items: asyncio.Queue[StreamItem] = asyncio.Queue()
        """At most `MOST_UNREAD_BATCHES` long, and one that says why it ended."""

    async def read(self) -> None:
        """Read until the end of the stream, which is the last item."""
        try:
            async for message in self._call:
                if self.items.qsize() >= MOST_UNREAD_BATCHES:
                    self.give_up("the tokens are read too slowly", ErrorCode.SLOW_CLIENT)
                    return
                self.items.put_nowait(wire.from_message(message, TokenBatch))
        except grpc.aio.AioRpcError as error:
            reason = error.details() or error.code().name
            self.items.put_nowait(AttemptEnded(refusal=refusal_of(error), reason=reason))
            return
        except ValueError as error:
            self.give_up(f"the node sent nonsense: {error}")
            return
        except asyncio.CancelledError:
            self.items.put_nowait(AttemptEnded(refusal=None, reason="cancelled"))
            raise
        self.items.put_nowait(AttemptEnded(refusal=None, reason="the stream ended early"))

    def give_up(self, reason: str, code: str = "") -> None:
        """End the stream from here, with a node's word where one gave it another way."""
        word = ErrorCode(code) if code in set(ErrorCode) else None
        refusal = Refusal(code=word, message=reason) if word else None
        self.items.put_nowait(AttemptEnded(refusal=refusal, reason=reason))
        self.cancel()

    def cancel(self) -> None:
        """Let the node know at once that nobody reads any more; harmless after the end."""
        self._call.cancel()


class NodeStreams:
    """Opens token streams."""

    def __init__(self, channels: Channels) -> None:
        self._channels = channels

    def open(self, address: str, request: GenerateRequest) -> NodeStream:
        """Send an attempt to a node."""
        message = wire.to_message(request, store_node_pb2.GenerateRequest)
        timeout = max(request.deadline_seconds, 0.001)
        stub = store_node_pb2_grpc.StoreNodeStub(self._channels.get(address))
        return NodeStream(stub.Generate(message, timeout=timeout))
