"""The checkpoints that are measured: made once, and kept."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pilotlight.native_loader.bench.messages import Made
from pilotlight.native_loader.bench.recipes import (
    Adapters,
    Layout,
    Recipe,
    is_made,
    mark_of,
    stamp_of,
)
from pilotlight.process.bench.children import Child, child_environ, python_command
from pilotlight.process.bench.errors import named
from pilotlight.process.page_cache import drop_from_page_cache, flush_to_disk
from pilotlight.process.progress import StepProgress

_PARTIALS = ".partial"
"""What is made lies there until it is whole."""

_SUFFIXES: Mapping[Layout, str] = {Layout.PICKLED: ".bin", Layout.TENSORIZED: ".tensors"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Where the bytes of a checkpoint, or of many adapters, lie in one layout."""

    name: str
    """Of its recipe."""
    layout: Layout
    groups: Sequence[tuple[Path, Sequence[Path]]]
    """Folder and weight files of each checkpoint."""
    size_bytes: int
    """Of all weight files."""

    @classmethod
    def of(cls, recipe: Recipe, layout: Layout, directory: Path) -> Source:
        """Find a checkpoint that was made."""
        folder = directory / recipe.folder(layout)
        places = [folder]
        if isinstance(recipe, Adapters):
            places = [folder / number for number in recipe.numbers]
        suffix = _SUFFIXES.get(layout, ".safetensors")
        groups = [(place, sorted(place.glob(f"*{suffix}"))) for place in places]
        files = [file for _, found in groups for file in found]
        return cls(
            name=recipe.name,
            layout=layout,
            groups=groups,
            size_bytes=sum(file.stat().st_size for file in files),
        )

    @property
    def files(self) -> list[Path]:
        """Return all weight files."""
        return [file for _, files in self.groups for file in files]

    def asked(self) -> list[dict[str, object]]:
        """Return its groups as children are asked for them."""
        return [
            {"directory": str(folder), "files": [str(file) for file in files]}
            for folder, files in self.groups
        ]


async def make_missing(
    wanted: Sequence[tuple[Recipe, Layout]],
    directory: Path,
    *,
    tensorizer: str | None,
    progress: StepProgress,
) -> None:
    """Make what is not there yet; `tensorizer` is the interpreter that has it.

    The first layout of a recipe, of which the others are made, comes first in `wanted`.

    Raises:
        BenchFailed: it can't be made.
    """
    partials = directory / _PARTIALS
    try:
        for recipe, layout in wanted:
            if not is_made(recipe, layout, directory):
                progress.begin(f"making {recipe.folder(layout)}")
                _make_empty(partials)
                with named(recipe.folder(layout)):
                    await _make(recipe, layout, directory, tensorizer=tensorizer)
            progress.advance(1)
    finally:
        shutil.rmtree(partials, ignore_errors=True)


def expected_digest(recipe: Recipe, directory: Path) -> str:
    """Return the digest of a recipe's tensors, as they were drawn."""
    return mark_of(recipe, Layout.SINGLE, directory).read_text().splitlines()[1]


def forget(recipes: Sequence[tuple[Recipe, Layout]], directory: Path) -> None:
    """Remove what was made of recipes, and the marks beside."""
    for recipe, layout in recipes:
        mark_of(recipe, layout, directory).unlink(missing_ok=True)
        shutil.rmtree(directory / recipe.folder(layout), ignore_errors=True)


async def _make(recipe: Recipe, layout: Layout, directory: Path, *, tensorizer: str | None) -> None:
    source = directory / recipe.folder(Layout.SINGLE)
    partial = directory / _PARTIALS / recipe.folder(layout)
    if layout is Layout.TENSORIZED:
        assert tensorizer is not None, "it is wanted only where there is one"
        command = _tensorizing(tensorizer, source, partial)
    else:
        module = f"{__package__}.making"
        command = python_command(module, recipe.name, layout, str(source), str(partial))
    async with Child.running("making", command, environ=child_environ(1)) as child:
        made = await child.receive(Made)
    for file in [*source.rglob("*"), *partial.rglob("*")]:
        if file.is_file():
            # Only clean pages can leave the page cache.
            flush_to_disk(file)
            drop_from_page_cache([file])
    target = directory / recipe.folder(layout)
    shutil.rmtree(target, ignore_errors=True)
    os.rename(partial, target)
    mark_of(recipe, layout, directory).write_text(f"{stamp_of(recipe, layout)}\n{made.digest}\n")


def _make_empty(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)


def _tensorizing(interpreter: str, source: Path, folder: Path) -> list[str]:
    files = sorted(source.rglob("*.safetensors"))
    pairs = [
        (str(file), str((folder / file.relative_to(source)).with_suffix(".tensors")))
        for file in files
    ]
    script = Path(__file__).with_name("tensorizing.py")
    return [interpreter, "-I", str(script), str(os.getpid()), json.dumps(pairs)]
