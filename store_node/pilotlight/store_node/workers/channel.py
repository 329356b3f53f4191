"""The end of a connection in a zygote or a worker, which wait for what comes."""

from __future__ import annotations

import select
import socket
from collections import deque
from collections.abc import Sequence
from typing import Any, Generic, TypeVar

from pilotlight.store_node.errors import NodeGone
from pilotlight.store_node.workers.framing import FrameDecoder, encode_frame
from pilotlight.store_node.workers.messages import Message

M = TypeVar("M", bound=Message)

RECEIVE_BYTES = 256 << 10
MAX_DESCRIPTORS = 16
"""As many as one read may bring along."""


class Channel(Generic[M]):
    """Sends at once, waiting while the other side does not read; receives when asked."""

    def __init__(self, connection: socket.socket, messages: Any) -> None:
        self._socket = connection
        self._decoder = FrameDecoder[M](messages)
        self._descriptors: deque[int] = deque()
        self._poll = select.poll()
        self._poll.register(connection, select.POLLIN)

    def fileno(self) -> int:
        """Return the socket's descriptor."""
        return self._socket.fileno()

    def send(self, message: Message, *, descriptors: Sequence[int] = ()) -> None:
        """Send a message, and descriptors along with it.

        Raises:
            NodeGone: as it says.
        """
        frame = encode_frame(message)
        try:
            n_sent = socket.send_fds(self._socket, [frame], descriptors) if descriptors else 0
            self._socket.sendall(memoryview(frame)[n_sent:])
        except (BrokenPipeError, ConnectionResetError) as error:
            raise NodeGone from error

    def receive(self, *, is_patient: bool) -> list[M] | None:
        """Return the messages that have come; wait for the first bytes if patient.

        None says that the other side has closed.
        """
        if not self._poll.poll(None if is_patient else 0):
            return []
        try:
            data, descriptors, _, _ = socket.recv_fds(
                self._socket, RECEIVE_BYTES, MAX_DESCRIPTORS, socket.MSG_CMSG_CLOEXEC
            )
        except ConnectionResetError:
            return None
        self._descriptors.extend(descriptors)
        return list(self._decoder.feed(data)) if data else None

    def take_descriptor(self) -> int:
        """Return the next descriptor that came along with a message; it is the caller's now."""
        return self._descriptors.popleft()

    def detach(self) -> None:
        """Let go of the socket without closing it."""
        self._socket.detach()
