"""The readers that show what each technique of a loader is worth, after the paper's figure 7."""

from __future__ import annotations

import json
from pathlib import Path

from pilotlight.native_loader.bench.checkpoints import Source

STEPS = ("by-tensor", "bulk", "direct", "threads", "pinned", "pipeline")
"""Each has the techniques of those before it."""

_LENGTH_BYTES = 8


def ablation_command(program: Path, step: str, source: Source) -> list[str]:
    """Return what brings a checkpoint of one file into memory, one step of the ablation."""
    (file,) = source.files
    ranges = tensor_ranges(file) if step == STEPS[0] else []
    return [str(program), step, str(file), *ranges]


def tensor_ranges(file: Path) -> list[str]:
    """Return where a safetensors file's tensors lie: "OFFSET:LENGTH"."""
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(_LENGTH_BYTES), "little")
        header = json.loads(stream.read(length))
    header.pop("__metadata__", None)
    begin = _LENGTH_BYTES + length
    offsets = sorted(entry["data_offsets"] for entry in header.values())
    return [f"{begin + first}:{last - first}" for first, last in offsets]
