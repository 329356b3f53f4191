"""Writes the recording to files, each of which can be replayed alone."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import msgspec
import structlog

from pilotlight.scheduler.core.events import AnyEvent
from pilotlight.scheduler.core.recording import Header, encode_entry, encode_header

log = structlog.get_logger(__name__)


class Recorder:
    """Appends events; begins a new file, with the state so far, when one is full.

    A disk that refuses ends the recording, with one line in the log: the cluster
    goes on without.
    """

    def __init__(
        self,
        directory: Path,
        *,
        header: Callable[[], Header],
        file_bytes: int = 64 << 20,
        kept_files: int = 8,
    ) -> None:
        self._directory = directory
        self._header = header
        self._file_bytes = file_bytes
        self._kept_files = kept_files
        self._offset = 0
        self._written_bytes = 0
        self._file: int | None = None
        self._has_failed = False

    def write(self, now: float, event: AnyEvent) -> int:
        """Append one event, before the core is given it; return its number."""
        offset = self._offset
        self._offset += 1
        if self._has_failed:
            return offset
        try:
            if self._file is None or self._written_bytes >= self._file_bytes:
                self._begin_file(offset)
            self._append(encode_entry(offset, now, event))
        except OSError as exc:
            self._has_failed = True
            self.close()
            log.error("recording ended", directory=str(self._directory), reason=str(exc))
        return offset

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _begin_file(self, offset: int) -> None:
        self.close()
        self._directory.mkdir(parents=True, exist_ok=True)
        header = msgspec.structs.replace(self._header(), first_offset=offset)
        path = self._directory / f"{int(header.began_at * 1000):013d}-{offset:012d}.jsonl"
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        self._written_bytes = 0
        self._append(encode_header(header))
        for old in sorted(self._directory.glob("*.jsonl"))[: -self._kept_files]:
            old.unlink(missing_ok=True)

    def _append(self, line: bytes) -> None:
        assert self._file is not None, "a file is open"
        # One write per event: what a killed process leaves ends with at most one torn line.
        written = os.write(self._file, line)
        if written < len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._written_bytes += written
