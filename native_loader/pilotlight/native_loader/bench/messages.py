"""What the bench and its children say to each other."""

from __future__ import annotations

import msgspec


class Message(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The root of all of them."""


class Ready(Message, frozen=True):
    """From whoever is to read or load: from now on the clock may start."""


class Go(Message, frozen=True):
    """To who is ready."""


class Loaded(Message, frozen=True):
    """From a loader, or from who reads without one: how it went."""

    load_seconds: float
    """Until the tensors were there."""
    total_seconds: float
    """Until every page of them was touched, too."""
    size_bytes: int
    cpu_seconds: float
    bytes_read: int
    """From disks."""
    each_seconds: tuple[float, ...] = ()
    """Of each checkpoint, where there are several and it takes one after another."""
    peak_bytes: int | None = None
    """The most that the process had mapped at once, less what it had before."""
    share_bytes: int | None = None
    """The process's memory in the end, no page twice, less what it had before."""
    digest: str = ""
    pool_bytes: int | None = None
    huge_bytes: int | None = None
    """The part of the pool that has huge pages."""
    attach_seconds: float | None = None
    """Median over what lies in the pool, of making tensors of it once more."""
    bottleneck: str = ""
    is_direct: bool = True
    """False where a reader was refused to go past the page cache."""


class Made(Message, frozen=True):
    """From who makes checkpoints: one is there."""

    digest: str = ""
    """Of its tensors, where they were drawn."""


class Held(Message, frozen=True):
    """From who holds a checkpoint in a pool: where that is."""

    pool: str
    """A path that opens it."""
    layout: msgspec.Raw
    """A WeightLayout."""
    pool_bytes: int
    huge_bytes: int
