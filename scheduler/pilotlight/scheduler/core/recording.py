"""Writes the core's input events down, and reads them back.

A recording is a sequence of lines: a header, then one event each. The core is a
function of its events, so replaying them gives the same actions again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import msgspec

from pilotlight.scheduler.core import events
from pilotlight.scheduler.core.state import ClusterState

FORMAT_VERSION = 1


class Header(msgspec.Struct, frozen=True, kw_only=True):
    """The first line of a recording, or of a part of one."""

    pilotlight_recording: int = FORMAT_VERSION
    package_version: str
    policy: str
    began_at: float
    """Seconds since 1970 at which the monotonic clock showed `began_now`."""
    began_now: float
    first_offset: int = 0
    """Number of the first event in this part."""
    state: ClusterState | None = None
    """What the core knew then; None at the very beginning."""
    lessons: Any = None
    """What the estimator had learned then."""


class Entry(msgspec.Struct, frozen=True, array_like=True):
    """One event and when the core was given it."""

    offset: int
    now: float
    event: events.AnyEvent


_ENCODER = msgspec.json.Encoder()
_HEADER = msgspec.json.Decoder(Header)
_ENTRY = msgspec.json.Decoder(Entry)


def encode_header(header: Header) -> bytes:
    """Return a recording's first line."""
    return _ENCODER.encode(header) + b"\n"


def encode_entry(offset: int, now: float, event: events.AnyEvent) -> bytes:
    """Return one event's line."""
    return _ENCODER.encode(Entry(offset, now, event)) + b"\n"


def read_recording(lines: Iterable[bytes]) -> tuple[Header, Iterator[Entry]]:
    """Return a recording's header and its events.

    A last line that was cut short, as a crash leaves it, ends the recording.

    Raises:
        ValueError: it is not a recording, or of a later format.
    """
    source = iter(lines)
    try:
        header = _HEADER.decode(next(source, b""))
    except msgspec.DecodeError as exc:
        raise ValueError(f"not a recording: {exc}") from exc
    if header.pilotlight_recording > FORMAT_VERSION:
        raise ValueError(f"recording format {header.pilotlight_recording} is not known here")
    return header, _entries(source)


def _entries(lines: Iterator[bytes]) -> Iterator[Entry]:
    for line in lines:
        if not line.endswith(b"\n"):
            return
        yield _ENTRY.decode(line)
