from __future__ import annotations

import json
from pathlib import Path

import pytest

from pilotlight.native_loader import Checkpoint, ChunkPool, FileChanged, Loader, OutsideRoots
from pilotlight.native_loader.formats.confinement import Roots
from pilotlight.native_loader.testing import RawTensor, write_checkpoint

NAME = "model.safetensors"
INDEX = "model.safetensors.index.json"


class Swap:
    """Makes a file a link to another one as soon as its path was found to be inside the roots."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, file: Path, target: Path) -> None:
        self._check = Roots.check
        self._file = file
        self._target = target
        monkeypatch.setattr(Roots, "check", lambda roots, path: self._check_and_swap(roots, path))

    def _check_and_swap(self, roots: Roots, path: Path) -> None:
        self._check(roots, path)
        if path == self._file:
            self._file.unlink()
            self._file.symlink_to(self._target)


@pytest.fixture
def outside(tmp_path: Path, tensors: dict[str, RawTensor]) -> Path:
    """A checkpoint that is nobody's business."""
    directory = write_checkpoint(tmp_path / "outside", tensors)
    (directory / INDEX).write_text(json.dumps({"weight_map": dict.fromkeys(tensors, NAME)}))
    (directory / "manifest.json").write_text("{}")
    return directory


@pytest.mark.parametrize("name", [NAME, INDEX, "manifest.json"])
def test_a_link_that_is_swapped_between_check_and_open_is_not_followed_outside(
    tmp_path: Path, directory: Path, outside: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    if name == INDEX:
        # Looked at only where there is no model.safetensors.
        (directory / NAME).rename(directory / "shard.safetensors")
    (directory / name).touch()
    Swap(monkeypatch, directory / name, outside / name)

    with pytest.raises(OutsideRoots, match=f"{name}: leads outside {directory}"):
        Checkpoint.open(directory, roots=[directory])


def test_a_link_that_stays_inside_may_be_swapped(
    tmp_path: Path, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blob = directory / "blob"
    blob.write_bytes((directory / NAME).read_bytes())
    Swap(monkeypatch, directory / NAME, blob)

    assert Checkpoint.open(directory, roots=[directory]).files[0].inode == blob.stat().st_ino


@pytest.mark.integration
def test_a_link_that_is_swapped_after_the_checkpoint_was_opened_fails_the_load(
    directory: Path, outside: Path, pool: ChunkPool, loader: Loader
) -> None:
    checkpoint = Checkpoint.open(directory, roots=[directory])
    (directory / NAME).unlink()
    (directory / NAME).symlink_to(outside / NAME)
    chunks = pool.allocate(1)

    with pytest.raises(FileChanged, match="replaced by another file"):
        loader.submit(checkpoint, chunks).result(30)

    pool.release(chunks)
