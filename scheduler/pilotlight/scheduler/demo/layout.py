"""Which node holds which checkpoint."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

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


def link_checkpoints(checkpoints: Path, run: Path) -> None:
    """Make the folder of a run anew, where each node has hard links to what it holds."""
    shutil.rmtree(run, ignore_errors=True)
    for node, held in HOLDINGS.items():
        for name in held:
            folder = models_of(run, node) / name
            folder.mkdir(parents=True)
            for file in (checkpoints / name).iterdir():
                os.link(file, folder / file.name)
