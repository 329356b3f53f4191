"""What a controller can be told."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec

from pilotlight.process.log_options import LogFormat, LogLevel
from pilotlight.process.quantities import ByteCount, Seconds

KIND = "ControllerConfig"


class RecordingSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How much of the past can be replayed."""

    file_bytes: ByteCount = ByteCount(64 << 20)
    """A file that is this long is followed by another, which begins with the state so far."""
    kept_files: Annotated[int, msgspec.Meta(ge=1)] = 8
    """Older ones are removed."""


class LogSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What is logged, and how."""

    format: LogFormat = "auto"
    """For people (console) or programs (json); auto = by whether stderr is a terminal."""
    level: LogLevel = "info"
    """The least that is told."""


class HttpSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The HTTP door."""

    listen: str = "127.0.0.1:8000"
    """HOST:PORT; loopback unless said otherwise."""
    body_bytes: ByteCount = ByteCount(4 << 20)
    """The longest request body."""
    stall_seconds: Seconds = Seconds(30.0)
    """A client that takes nothing for so long is cut."""


class ControllerSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One controller process, with its gateway."""

    home: Path | None = None
    """Where data lies; None = $PILOTLIGHT_HOME or ~/.pilotlight."""
    database: str = ""
    """SQLAlchemy URL; empty = SQLite below `home`."""
    listen: str = "127.0.0.1:50051"
    """HOST:PORT for gRPC: nodes and users."""
    http: HttpSettings = HttpSettings()
    policy: str = "serverlessllm"
    """An entry point of group pilotlight.policies."""
    estimator: str = "learned"
    """An entry point of group pilotlight.estimators."""
    keep_alive: str | float = "60s"
    """What a model gets that names none: a duration, or "load"."""
    queue_limit: int = 256
    """Requests that may wait for a model that names no limit."""
    heartbeat_seconds: Seconds = Seconds(1.0)
    """How often a node reports at least; after three that are missing it is down."""
    lease_seconds: Seconds = Seconds(5.0)
    """How long after its death another controller may take over."""
    reconnect_grace_seconds: Seconds = Seconds(2.0)
    """How long a node whose connection broke keeps its replicas."""
    restore_grace_seconds: Seconds = Seconds(10.0)
    """How long a new leader waits for nodes to report what they run."""
    start_timeout_seconds: Seconds = Seconds(900.0)
    """A start that is not READY by then has failed."""
    recording: RecordingSettings = RecordingSettings()
    log: LogSettings = LogSettings()


def state_url(settings: ControllerSettings, home: Path) -> str:
    """Return the URL of the state that a controller keeps."""
    from pilotlight.scheduler.store import sqlite_url

    return settings.database or sqlite_url(home / "state.db")
