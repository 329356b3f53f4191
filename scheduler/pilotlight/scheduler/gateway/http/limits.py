"""How much one HTTP client may ask of the gateway."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpLimits:
    """Bounds on bodies, buffers and patience."""

    header_bytes: int = 64 << 10
    header_seconds: float = 10.0
    """From a connection, or a request's first byte, to the end of its headers."""
    body_bytes: int = 4 << 20
    body_seconds: float = 30.0
    """From the end of the headers to the end of the body."""
    linger_seconds: float = 2.0
    """How long the rest of a body that is too large is read, and thrown away.

    A connection closed with unread data is reset, and its client might never
    see the answer.
    """
    stall_seconds: float = 30.0
    """A client that takes none of its answer for this long is cut."""
    idle_seconds: int = 30
    """How long a connection is kept between two requests."""
    keep_alive_seconds: float = 10.0
    """A stream that says nothing for this long sends a comment."""
