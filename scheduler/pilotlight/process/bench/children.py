"""Child processes that measure: a line of JSON asks one for something, a line is the answer.

Whoever asks shall be small and idle while something is measured, and imports no
torch; what is measured in a process of its own finds its processor's caches and
its memory as a worker's.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import tempfile
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar

import msgspec

from pilotlight.process.bench.answers import Mishap
from pilotlight.process.bench.errors import BenchFailed
from pilotlight.process.log_tail import log_tail

ANSWER_SECONDS = 600.0
"""No single answer takes minutes; a process that hangs must not hang the bench."""

_LINE_BYTES = 64 << 20
_MISHAP = b'{"mishap":'

T = TypeVar("T")


class Child:
    """A process that is asked one thing after another."""

    def __init__(self, name: str, process: Process, log: Path) -> None:
        self._name = name
        self._process = process
        self._log = log

    @classmethod
    @asynccontextmanager
    async def running(
        cls, name: str, command: Sequence[str], *, environ: Mapping[str, str]
    ) -> AsyncGenerator[Child]:
        """Run a command in the block; `name` says in errors whose process it is."""
        # Without a name, it goes with its processes, even where all of them are killed.
        with tempfile.TemporaryFile() as log:
            process = await asyncio.create_subprocess_exec(
                *command,
                env=environ,
                stdin=PIPE,
                stdout=PIPE,
                stderr=log,
                limit=_LINE_BYTES,
                # Ctrl-C is for the parent, which ends its children.
                start_new_session=True,
            )
            try:
                yield cls(name, process, Path(f"/proc/self/fd/{log.fileno()}"))
            finally:
                await _end(process)

    @property
    def pid(self) -> int:
        """Return the process."""
        return self._process.pid

    async def ask(self, question: object, answer: type[T]) -> T:
        """Send a question, and wait for the answer.

        Raises:
            BenchFailed: the child can't give it, or has ended.
        """
        assert self._process.stdin is not None, "it is a pipe"
        self._process.stdin.write(msgspec.json.encode(question) + b"\n")
        return await self.receive(answer)

    async def receive(self, answer: type[T]) -> T:
        """Wait for what the child says.

        Raises:
            BenchFailed: the child can't give it, or has ended.
        """
        assert self._process.stdout is not None, "it is a pipe"
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                line = await self._process.stdout.readline()
        except TimeoutError as exc:
            raise BenchFailed(f"{self._name} took more than {ANSWER_SECONDS:g} s") from exc
        if not line:
            last = log_tail(self._log).splitlines()[-1:] or ["it said nothing"]
            raise BenchFailed(f"the process of {self._name} has ended: {last[0].strip()}")
        said: T | Mishap = _decode(line, answer)
        if isinstance(said, Mishap):
            raise BenchFailed(f"{self._name}: {said.mishap}")
        return said


def python_command(module: str, *arguments: str) -> list[str]:
    """Return `python -m MODULE PARENT_PID ARGUMENTS`, by this process's interpreter."""
    return [sys.executable, "-P", "-m", module, str(os.getpid()), *arguments]


def child_environ(threads: int) -> dict[str, str]:
    """Return the environment of whatever computes: its threads, and nothing of our settings."""
    inherited = {
        name: value for name, value in os.environ.items() if not name.startswith("PILOTLIGHT_")
    }
    return inherited | {
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
        "OPENBLAS_NUM_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_VERBOSITY": "error",
        "TQDM_DISABLE": "1",
        "PYTHONUNBUFFERED": "1",
    }


def _decode(line: bytes, answer: type[T]) -> T | Mishap:
    if line.startswith(_MISHAP):
        return msgspec.json.decode(line, type=Mishap)
    return msgspec.json.decode(line, type=answer)


async def _end(process: Process) -> None:
    """End a child and what it has forked, which is of its session."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass  # It is gone, and was reaped.
    await process.wait()
