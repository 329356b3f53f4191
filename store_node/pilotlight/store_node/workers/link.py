"""The end of a connection in the node, whose event loop never waits."""

from __future__ import annotations

import asyncio
import os
import socket
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

import structlog

from pilotlight.store_node.errors import BrokenFrame
from pilotlight.store_node.workers.channel import MAX_DESCRIPTORS, RECEIVE_BYTES
from pilotlight.store_node.workers.framing import FrameDecoder, encode_frame
from pilotlight.store_node.workers.messages import Message

M = TypeVar("M", bound=Message)

_log = structlog.get_logger()


class Link(Generic[M]):
    """Sends and receives messages by callbacks of the running event loop.

    `on_message` is called for each message, in order; then `on_closed` once, when
    the other side has closed or sent what is no message. Neither is called any
    more after `close`.
    """

    def __init__(
        self,
        connection: socket.socket,
        messages: Any,
        *,
        on_message: Callable[[M], None],
        on_closed: Callable[[], None],
    ) -> None:
        connection.setblocking(False)
        self._socket = connection
        self._decoder = FrameDecoder[M](messages)
        self._on_message = on_message
        self._on_closed = on_closed
        self._outgoing: deque[tuple[memoryview, list[int]]] = deque()
        self._descriptors: deque[int] = deque()
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(connection, self._receive)
        self._is_open = True

    def send(self, message: Message, *, descriptors: Sequence[int] = ()) -> None:
        """Send a message, and duplicates of descriptors along with it; nothing if closed."""
        if not self._is_open:
            return
        frame = memoryview(encode_frame(message))
        self._outgoing.append((frame, [os.dup(descriptor) for descriptor in descriptors]))
        if len(self._outgoing) == 1:
            self._flush()

    def take_descriptor(self) -> int:
        """Return the next descriptor that came along with a message; it is the caller's now."""
        return self._descriptors.popleft()

    def close(self) -> None:
        """Close this end; what was not sent yet is dropped."""
        if not self._is_open:
            return
        self._is_open = False
        self._loop.remove_reader(self._socket)
        self._loop.remove_writer(self._socket)
        self._socket.close()
        unsent = [descriptor for _, descriptors in self._outgoing for descriptor in descriptors]
        for descriptor in (*unsent, *self._descriptors):
            os.close(descriptor)
        self._outgoing.clear()
        self._descriptors.clear()

    def _flush(self) -> None:
        while self._outgoing:
            frame, descriptors = self._outgoing[0]
            try:
                n_sent = (
                    socket.send_fds(self._socket, [frame], descriptors)
                    if descriptors
                    else self._socket.send(frame)
                )
            except BlockingIOError:
                self._loop.add_writer(self._socket, self._flush)
                return
            except OSError:
                # The reader finds out as well, and tells.
                self._loop.remove_writer(self._socket)
                return
            # Descriptors go with the first byte.
            while descriptors:
                os.close(descriptors.pop())
            if n_sent == len(frame):
                self._outgoing.popleft()
            else:
                self._outgoing[0] = (frame[n_sent:], descriptors)
        self._loop.remove_writer(self._socket)

    def drain(self) -> None:
        """Receive all that has come; for when the other side is known to send no more."""
        while self._is_open and self._receive():
            pass

    def _receive(self) -> bool:
        """Read once; return whether there was anything to read."""
        try:
            data, descriptors, _, _ = socket.recv_fds(
                self._socket, RECEIVE_BYTES, MAX_DESCRIPTORS, socket.MSG_CMSG_CLOEXEC
            )
        except BlockingIOError:
            return False
        except OSError:
            data, descriptors = b"", []
        self._descriptors.extend(descriptors)
        if not data:
            self._end()
            return True
        try:
            for message in self._decoder.feed(data):
                self._on_message(message)
                if not self._is_open:
                    break
        except BrokenFrame as error:
            _log.error("a worker or zygote sent what is no message", error=str(error))
            self._end()
        return True

    def _end(self) -> None:
        self.close()
        self._on_closed()
