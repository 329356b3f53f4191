"""A directory whose files fail as a test says, with a file system in a process of its own."""

from __future__ import annotations

import json
import queue
import subprocess
import sys
import threading
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tests.native_loader.faults.faulty_file_system import Faults, unmount

_DEADLINE_SECONDS = 20
_ROOT = Path(__file__).parents[3]


class MountRefused(Exception):
    """This machine mounts no file system for this process."""


class FaultyFiles:
    """Shows the files of one directory in another one, with faults."""

    def __init__(self, source: Path, directory: Path) -> None:
        """Mount them there, or raise MountRefused."""
        self.directory = directory
        directory.mkdir()
        self._process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "tests.native_loader.faults.faulty_file_system",
                str(source),
                str(directory),
            ],
            cwd=_ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._events: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()
        self._expect("done")

    def set(self, file: str, faults: Faults) -> None:
        """Have a file fail so from now on."""
        self._tell({"do": "set", "file": file, "faults": asdict(faults)})
        self._expect("done")

    def wait_until_held(self) -> int:
        """Wait for a read that is not answered, and return its offset."""
        return int(self._expect("held"))

    def release(self) -> None:
        """Answer all reads that were held."""
        self._tell({"do": "release"})
        self._expect("done")

    def kill(self) -> None:
        """End the file system as a crash would: reads that wait fail, and so do all later ones."""
        self._process.kill()
        self._process.wait(_DEADLINE_SECONDS)

    def close(self) -> None:
        """Take everything away."""
        unmount(self.directory)
        self._end()

    def _end(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(_DEADLINE_SECONDS)
        finally:
            self._process.kill()
        self._listener.join(_DEADLINE_SECONDS)
        self._process.stdout.close()

    def _tell(self, command: dict[str, object]) -> None:
        assert self._process.stdin is not None
        print(json.dumps(command), file=self._process.stdin, flush=True)

    def _expect(self, kind: str) -> Any:
        while True:
            event = self._events.get(timeout=_DEADLINE_SECONDS)
            if "refused" in event:
                self._end()
                raise MountRefused(event["refused"])
            if kind in event:
                return event[kind]

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._events.put(json.loads(line))
