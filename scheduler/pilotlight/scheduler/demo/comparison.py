"""First tokens through Pilotlight and through from_pretrained, side by side.

For each checkpoint, several times in turn, the cluster idle, same prompt and
threads: (a) from SSD, (b) from DRAM, (c) from_pretrained in a fresh process, (d)
the same where the imports are done. Before each that reads from disk the files
leave the page cache, and the bytes that the process then reads are counted.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx

from pilotlight.process.page_cache import bytes_read, drop_from_page_cache
from pilotlight.scheduler.demo.control import Control
from pilotlight.scheduler.demo.errors import DemoFailed
from pilotlight.scheduler.demo.requests import ask

PROMPT_IDS = tuple(range(100, 164))

READ_SHARE = 0.98
"""Of a checkpoint's bytes: what a start from SSD must have read from the disk."""

MAPPED_READ_SHARE = 0.8
"""The same for from_pretrained, which maps the files: rows of the embedding that the prompt
does not use may never be read."""

DRAM_READ_SHARE = 0.02
"""What a start from DRAM may read: configurations, but no weights."""

REFERENCE_SECONDS = 300.0
"""`from_pretrained` takes seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """One checkpoint, once through all four ways; seconds to the first token."""

    model: str
    ssd_seconds: float
    dram_seconds: float
    fresh_seconds: float
    imported_seconds: float
    ssd_bytes_read: int
    fresh_bytes_read: int
    imported_bytes_read: int
    size_bytes: int


class Comparison:
    """Measures rounds on an idle cluster whose models have no keep-alive."""

    def __init__(
        self,
        client: httpx.AsyncClient,
        control: Control,
        *,
        checkpoints: Path,
        node_pids: Mapping[str, int],
        threads: int,
        mark: Mapping[str, str],
    ) -> None:
        self._client = client
        self._control = control
        self._checkpoints = checkpoints
        self._node_pids = node_pids
        environ = {"OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1"}
        self._environ = {**os.environ, **environ, **mark}
        self._forks: Process | None = None

    async def __aenter__(self) -> Comparison:
        architectures = ("llama", "qwen3", "opt", "gpt2")
        self._forks = await self._spawn("forks", *architectures)
        try:
            await _line(self._forks)
        except BaseException:
            await _end(self._forks)
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._forks is not None:
            await _end(self._forks)

    async def run(
        self, models: Sequence[str], *, repetitions: int, progress: Callable[[Round], None]
    ) -> list[Round]:
        """Return `repetitions` rounds of each model, alternating."""
        rounds: list[Round] = []
        for _ in range(repetitions):
            for model in models:
                rounds.append(await self._round(model))
                progress(rounds[-1])
        return rounds

    async def _round(self, model: str) -> Round:
        folder = self._checkpoints / model
        size = _weight_bytes(folder)
        await self._control.evict(model)
        _drop(folder)
        before = self._nodes_bytes_read()
        ssd_seconds = await self._through_pilotlight(model)
        ssd_read = self._nodes_bytes_read() - before
        _require_read(model, "through Pilotlight from SSD", ssd_read, READ_SHARE * size)
        before = self._nodes_bytes_read()
        dram_seconds = await self._through_pilotlight(model)
        if (read := self._nodes_bytes_read() - before) > DRAM_READ_SHARE * size:
            raise DemoFailed(f"{model} from DRAM: {read} bytes came from the disk")
        fresh_seconds, fresh_read = await self._fresh(folder)
        _require_read(model, "by from_pretrained, fresh", fresh_read, MAPPED_READ_SHARE * size)
        imported_seconds, imported_read = await self._imported(folder)
        _require_read(
            model, "by from_pretrained, imported", imported_read, MAPPED_READ_SHARE * size
        )
        return Round(
            model=model,
            ssd_seconds=ssd_seconds,
            dram_seconds=dram_seconds,
            fresh_seconds=fresh_seconds,
            imported_seconds=imported_seconds,
            ssd_bytes_read=ssd_read,
            fresh_bytes_read=fresh_read,
            imported_bytes_read=imported_read,
            size_bytes=size,
        )

    async def _through_pilotlight(self, model: str) -> float:
        await self._control.wait_idle()
        answer = await ask(self._client, model, prompt=list(PROMPT_IDS), max_tokens=1)
        if answer.first_token_seconds is None:
            raise DemoFailed(f"{model} did not answer: {answer.error}")
        return answer.first_token_seconds

    async def _fresh(self, folder: Path) -> tuple[float, int]:
        _drop(folder)
        began = time.monotonic()
        process = await self._spawn("fresh", str(folder), json.dumps(PROMPT_IDS))
        try:
            await _line(process)
            seconds = time.monotonic() - began
            return seconds, (await _line(process))["bytes_read"]
        finally:
            await _end(process)

    async def _imported(self, folder: Path) -> tuple[float, int]:
        _drop(folder)
        forks = self._forks
        assert forks is not None, "it was entered"
        assert forks.stdin is not None, "it is a pipe"
        request = {"folder": str(folder), "prompt_ids": PROMPT_IDS}
        forks.stdin.write(json.dumps(request).encode() + b"\n")
        answer = await _line(forks)
        return answer["seconds"], answer["bytes_read"]

    async def _spawn(self, *arguments: str) -> Process:
        return await asyncio.create_subprocess_exec(
            sys.executable,
            "-P",
            "-m",
            "pilotlight.scheduler.demo.reference",
            *arguments,
            env=self._environ,
            stdin=PIPE,
            stdout=PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )

    def _nodes_bytes_read(self) -> int:
        return sum(map(bytes_read, self._node_pids.values()))


async def _line(process: Process) -> dict[str, Any]:
    assert process.stdout is not None, "it is a pipe"
    try:
        async with asyncio.timeout(REFERENCE_SECONDS):
            line = await process.stdout.readline()
    except TimeoutError:
        raise DemoFailed(f"from_pretrained took more than {REFERENCE_SECONDS:g} s") from None
    if not line:
        raise DemoFailed("the process of from_pretrained has ended")
    answer: dict[str, Any] = json.loads(line)
    if "error" in answer:
        raise DemoFailed(f"from_pretrained failed: {answer['error']}")
    return answer


async def _end(process: Process) -> None:
    if process.returncode is None:
        process.kill()
        await process.wait()


def _require_read(model: str, way: str, read: int, least: float) -> None:
    if read < least:
        raise DemoFailed(
            f"{model} {way}: only {read} bytes came from the disk, not the {least:.0f} that"
            " a cold start must read"
        )


def _drop(folder: Path) -> None:
    """Let the kernel forget a checkpoint's files."""
    drop_from_page_cache(folder.iterdir())


def _weight_bytes(folder: Path) -> int:
    """Return the size of a checkpoint's weight files."""
    return sum(file.stat().st_size for file in folder.glob("*.safetensors"))
