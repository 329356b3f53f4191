"""Which node holds which checkpoint."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from pilotlight.scheduler.demo.errors import DemoFailed

HOLDINGS: Mapping[str, Sequence[str]] = {
    "node-1": ("llama-25m", "llama-120m", "qwen-22m", "opt-42m"),
    "node-2": ("llama-120m", "qwen-65m", "opt-42m", "gpt2-30m"),
    "node-3": ("llama-25m", "qwen-22m", "qwen-65m", "gpt2-30m"),
}
"""Each checkpoint lies on two of three nodes, and no node has all."""

DEVICES = 2

DRAM_BYTES = 560 << 20
"""Holds the largest checkpoint (480 MB) and no node's whole subset."""


def models_of(run: Path, node: str) -> Path:
    """Return a node's model root."""
    return run / "models" / node


@contextmanager
def only_run(directory: Path) -> Generator[None]:
    """Keep other demos out of a directory.

    Raises:
        DemoFailed: one runs there.
    """
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DemoFailed(
                f"a demo runs in {directory}; give this one another --directory"
            ) from None
        yield


def link_checkpoints(checkpoints: Path, run: Path) -> None:
    """Make the folder of a run anew, where each node has hard links to what it holds."""
    shutil.rmtree(run, ignore_errors=True)
    for node, held in HOLDINGS.items():
        for name in held:
            folder = models_of(run, node) / name
            folder.mkdir(parents=True)
            for file in (checkpoints / name).iterdir():
                os.link(file, folder / file.name)
