"""Who this node is, and which machine it runs on."""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import secrets
import socket
from importlib.metadata import version
from pathlib import Path
from typing import IO

from pilotlight.store_node.errors import InvalidName, NameTaken
from pilotlight.store_node.protocol import ChannelId, Incarnation, NodeId

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_MOST_NODES_PER_HOME = 1000


def package_version() -> str:
    """Return the version of this package."""
    return version("pilotlight")


def new_incarnation() -> Incarnation:
    """Return what no other process start is called."""
    return Incarnation(secrets.token_hex(8))


def disk_channel(device: int) -> ChannelId:
    """Name a disk of this host by its device number, alike in every process that sees it."""
    return ChannelId(f"{_host_id()}/disk-{os.major(device)}:{os.minor(device)}")


class NodeHome:
    """A node's own directory below the home directory, and its name, for as long as it runs.

    A lock that the kernel drops with the process keeps two nodes from one name.
    """

    def __init__(self, node_id: NodeId, path: Path, lock: IO[str]) -> None:
        """Not for callers: see `claim`."""
        self.node_id = node_id
        self.path = path
        self._lock = lock

    @classmethod
    def claim(cls, home: Path, name: str = "") -> NodeHome:
        """Take a name; without one, the host's name, or the first free name made of it.

        Raises:
            InvalidName: it can't be a directory's and a metric label's name.
            NameTaken: a running node of this home has it.
        """
        if name:
            return cls._take(home, name)
        base = re.sub(r"[^A-Za-z0-9._-]", "-", socket.gethostname()).lstrip("._-")[:50] or "node"
        for number in range(1, _MOST_NODES_PER_HOME):
            try:
                return cls._take(home, base if number == 1 else f"{base}-{number}")
            except NameTaken:
                continue
        raise NameTaken(base)

    def release(self) -> None:
        """Give the name back."""
        self._lock.close()

    @classmethod
    def _take(cls, home: Path, name: str) -> NodeHome:
        if not _NAME.fullmatch(name):
            raise InvalidName(name)
        path = home / "nodes" / name
        path.mkdir(parents=True, exist_ok=True)
        lock = (path / "lock").open("w")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            raise NameTaken(name) from None
        return cls(NodeId(name), path, lock)


def _host_id() -> str:
    """Return what processes of one host agree on, be they in containers or not."""
    for source in ("/proc/sys/kernel/random/boot_id", "/etc/machine-id"):
        try:
            text = Path(source).read_text()
        except OSError:
            continue
        return hashlib.sha256(text.encode()).hexdigest()[:12]
    return socket.gethostname()
