"""Writes one checkpoint of random weights, in one layout.

Run as `python -m pilotlight.native_loader.bench.making PARENT_PID NAME LAYOUT FROM TO`,
in a process that then ends and takes torch along. Every layout but the first two
is made FROM the first; the weights follow from the recipe alone.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pilotlight.native_loader.bench.messages import Made
from pilotlight.native_loader.bench.one_load import Bytes, digest_of, digest_of_tensor
from pilotlight.native_loader.bench.recipes import (
    ITEM_BYTES,
    Adapters,
    Layout,
    Llama,
    Recipe,
    header_of,
    recipe_of,
)
from pilotlight.native_loader.formats.checkpoint import Checkpoint
from pilotlight.native_loader.packing.pack import pack
from pilotlight.process.bench.answers import Answers

_SMALL_EXPONENT = 0xBFFF
"""Without this bit, a bfloat16 or a float16 of random bits is finite."""


def write_drawn(recipe: Recipe, layout: Layout, folder: Path) -> str:
    """Write safetensors files of random tensors; return the digest of all of them."""
    folder.mkdir(parents=True)
    if isinstance(recipe, Llama):
        return digest_of(_write_llama(recipe, layout, folder))
    digests: list[int] = []
    for number in recipe.numbers:
        place = folder / number
        place.mkdir()
        (place / "adapter_config.json").write_text(json.dumps(recipe.config))
        file = place / "adapter_model.safetensors"
        digests += _write_file(recipe, recipe.tensors, file, seed=number)
    return digest_of(digests)


def write_converted(recipe: Recipe, layout: Layout, source: Path, folder: Path) -> None:
    """Write what was drawn in another layout."""
    if layout is Layout.PACKED:
        pack(Checkpoint.open(source), folder)
        return
    folder.mkdir()
    for checkpoint in _checkpoints(recipe, source):
        place = folder / checkpoint.relative_to(source)
        place.mkdir(exist_ok=True)
        _write_pickle(checkpoint, place)


def _write_llama(recipe: Llama, layout: Layout, folder: Path) -> list[int]:
    (folder / "config.json").write_text(json.dumps(recipe.config))
    shards = recipe.shards(layout)
    digests: list[int] = []
    weight_map: dict[str, str] = {}
    for number, names in enumerate(shards, start=1):
        name = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        name = name if layout is Layout.SHARDED else "model.safetensors"
        shapes = {each: recipe.tensors[each] for each in names}
        digests += _write_file(recipe, shapes, folder / name)
        weight_map |= dict.fromkeys(names, name)
    if layout is Layout.SHARDED:
        index = {"metadata": {"total_size": recipe.size_bytes}, "weight_map": weight_map}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return digests


def _write_file(
    recipe: Recipe, shapes: Mapping[str, tuple[int, ...]], file: Path, *, seed: str = ""
) -> list[int]:
    header = json.dumps(header_of(recipe.dtype, shapes)).encode()
    header += b" " * (-len(header) % 8)
    digests: list[int] = []
    with file.open("xb") as stream:
        stream.write(len(header).to_bytes(8, "little") + header)
        for name, shape in shapes.items():
            data = _drawn(f"{recipe.name} {seed} {name}", int(np.prod(shape)))
            digests.append(digest_of_tensor(name, data))
            stream.write(data.tobytes())
    return digests


def _drawn(seed: str, n_items: int) -> Bytes:
    entropy = int.from_bytes(hashlib.sha256(seed.encode()).digest())
    rng = np.random.Generator(np.random.SFC64(entropy))
    words = rng.integers(0, 1 << 64, size=-(-n_items * ITEM_BYTES // 8), dtype=np.uint64)
    items = words.view(np.uint16)[:n_items] & np.uint16(_SMALL_EXPONENT)
    return items.view(np.uint8)


def _checkpoints(recipe: Recipe, folder: Path) -> list[Path]:
    if isinstance(recipe, Adapters):
        return [folder / number for number in recipe.numbers]
    return [folder]


def _write_pickle(source: Path, folder: Path) -> None:
    import torch

    from pilotlight.native_loader import load

    save: Callable[[Any, Path], None] = torch.save
    name = "adapter_model.bin" if "adapter" in _weights(source).name else "pytorch_model.bin"
    # One by one, for a view would take all of its file along.
    save({name: tensor.clone() for name, tensor in load(source).items()}, folder / name)


def _weights(folder: Path) -> Path:
    return next(folder.glob("*.safetensors"))


def main() -> None:
    """Write the checkpoint that the command line names."""
    answers = Answers()
    name, layout, source, folder = sys.argv[2], Layout(sys.argv[3]), *map(Path, sys.argv[4:])

    def make() -> None:
        recipe = recipe_of(name)
        if layout in (Layout.SINGLE, Layout.SHARDED):
            answers.say(Made(digest=write_drawn(recipe, layout, folder)))
        else:
            write_converted(recipe, layout, source, folder)
            answers.say(Made())

    answers.attempt(make)


if __name__ == "__main__":
    main()
