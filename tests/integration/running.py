"""A command of ours that runs, all of whose processes can be found."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path

from pilotlight.process import process_table

PILOTLIGHT = (sys.executable, "-P", "-m", "pilotlight.scheduler.cli")
WAIT_SECONDS = 60.0


class Running:
    """The command, what it says, and what it has started."""

    def __init__(self, process: subprocess.Popen[str], mark: str) -> None:
        self.process = process
        self._mark = mark

    def wait_for(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + WAIT_SECONDS
        while not condition():
            assert self.process.poll() is None, "it has ended"
            assert time.monotonic() < deadline, "it is not so far"
            time.sleep(0.02)

    def read_until(self, line: str) -> None:
        """Read what it prints until it says that."""
        assert self.process.stdout is not None
        for said in self.process.stdout:
            if line in said:
                return
        raise AssertionError(f"it ended before it said {line!r}")

    def end(self, timeout: float, *signals: signal.Signals) -> str:
        """Send signals, wait for its end and return the rest of what it said."""
        for each in signals:
            self.process.send_signal(each)
        out, _ = self.process.communicate(timeout=timeout)
        return out

    def left(self) -> list[int]:
        """Return its processes that still run."""
        return process_table.marked(self._mark)

    def processes(self, word: str) -> list[int]:
        """Return those it has started whose command has a word."""
        return [
            pid
            for pid in self.left()
            if pid != self.process.pid
            and word.encode() in Path(f"/proc/{pid}/cmdline").read_bytes()
        ]


@contextmanager
def running(command: Sequence[str | Path], **environ: str) -> Generator[Running]:
    """Run `pilotlight` with arguments; kill it in the end."""
    mark = uuid.uuid4().hex
    with subprocess.Popen(
        [*PILOTLIGHT, *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | environ | {"TEST_RUN": mark},
    ) as process:
        try:
            yield Running(process, f"TEST_RUN={mark}")
        finally:
            process.kill()
