"""Addresses to listen on, and clear words when that fails."""

from __future__ import annotations

import errno
import os
import re
import socket
from dataclasses import dataclass

from pilotlight.process.errors import AddressUnavailable, InvalidAddress

_PORT = re.compile("[0-9]{1,5}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """A host and a TCP port."""

    host: str
    port: int
    """0 = any free one, when listening."""

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


def parse_address(text: str, *, default_port: int | None = None) -> Address:
    """Read "HOST:PORT", "[IPV6]:PORT", ":PORT" (loopback), or "HOST" where there is a default.

    Raises:
        InvalidAddress: it is none of these.
    """
    host, separator, port = text.strip().rpartition(":")
    if (not separator or port.endswith("]")) and default_port is not None:
        host, port = text.strip(), str(default_port)
    if not _PORT.fullmatch(port) or int(port) > 65535:
        raise InvalidAddress(f"expected HOST:PORT, got {text!r}")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise InvalidAddress(f"expected [HOST]:PORT for an IPv6 host, got {text!r}")
    return Address(host=host or "127.0.0.1", port=int(port))


def listen(address: Address, *, backlog: int = 2048) -> socket.socket:
    """Return a listening, non-blocking socket.

    Raises:
        AddressUnavailable: another process listens there, or it may not be used.
    """
    opened: socket.socket | None = None
    try:
        family, kind, protocol, _, where = _resolve(address)
        opened = socket.socket(family, kind, protocol)
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        opened.bind(where)
        opened.listen(backlog)
        opened.setblocking(False)
    except OSError as exc:
        if opened is not None:
            opened.close()
        raise AddressUnavailable(str(address), _reason(exc)) from exc
    return opened


def require_free(address: Address) -> None:
    """Refuse an address that another process listens on.

    gRPC binds with SO_REUSEPORT, so a second server on a port starts without a
    word and takes half of the connections; servers call this first, and turn
    that option off.

    Raises:
        AddressUnavailable: another process listens there, or it may not be used.
    """
    listen(address, backlog=1).close()


def _resolve(
    address: Address,
) -> tuple[int, int, int, str, tuple[str, int] | tuple[str, int, int, int] | tuple[int, bytes]]:
    return socket.getaddrinfo(
        address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]


def _reason(exc: OSError) -> str:
    if isinstance(exc, socket.gaierror):
        return "unknown host"
    reasons = {
        errno.EADDRINUSE: "another process listens there",
        errno.EADDRNOTAVAIL: "this machine has no such address",
        errno.EACCES: "ports below 1024 need a privilege",
    }
    return reasons.get(exc.errno or 0, os.strerror(exc.errno) if exc.errno else str(exc))
