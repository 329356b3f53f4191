"""Which files of a directory are pickled weights."""

from __future__ import annotations

import os
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import cast

from pilotlight.native_loader.errors import CorruptCheckpoint, NotACheckpoint
from pilotlight.native_loader.formats.confinement import Roots
from pilotlight.native_loader.formats.json_objects import parse_json_object
from pilotlight.native_loader.formats.weight_files import check_plain_name
from pilotlight.native_loader.formats.whole_files import read_whole

PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt")
_SINGLE_NAMES = ("pytorch_model.bin", "adapter_model.bin")
_INDEX_NAME = "pytorch_model.bin.index.json"
_MAX_INDEX_BYTES = 100_000_000
_OTHER_PICKLES = ("training_args.*", "optimizer*", "scheduler*", "scaler*", "rng_state*")
"""What trainers leave beside the weights."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PickleFiles:
    """The pickled weight files of a checkpoint, by name."""

    directory: Path
    names: tuple[str, ...]


def find_pickle_files(path: Path) -> PickleFiles:
    """Return the pickled weights of a directory, or the file that `path` is.

    Raises:
        NotACheckpoint: there are none, or nothing says which.
        CorruptCheckpoint: the index makes no sense.
    """
    if path.is_file():
        return PickleFiles(directory=path.parent, names=(path.name,))
    names = sorted(os.listdir(path))
    for name in _SINGLE_NAMES:
        if name in names:
            return PickleFiles(directory=path, names=(name,))
    if _INDEX_NAME in names:
        return PickleFiles(directory=path, names=_indexed(path / _INDEX_NAME))
    found = [name for name in names if name.endswith(PICKLE_SUFFIXES) and not _is_other(name)]
    if len(found) != 1:
        which = f"{len(found)} pickles" if found else "no pickled weights"
        raise NotACheckpoint(path, f"holds {which} and no {_INDEX_NAME}")
    return PickleFiles(directory=path, names=(found[0],))


def _is_other(name: str) -> bool:
    return any(fnmatch(name, pattern) for pattern in _OTHER_PICKLES)


def _indexed(file: Path) -> tuple[str, ...]:
    raw = read_whole(file, most_bytes=_MAX_INDEX_BYTES, roots=Roots([]))
    weight_map = parse_json_object(raw, file).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CorruptCheckpoint(file, "has no weight_map")
    names: dict[str, None] = {}
    for name in cast("dict[str, object]", weight_map).values():
        if not isinstance(name, str):
            raise CorruptCheckpoint(file, "maps a tensor to something else than a file name")
        check_plain_name(name, file)
        if not name.endswith(PICKLE_SUFFIXES):
            raise CorruptCheckpoint(file, f"names {name!r}, which is no pickle")
        names[name] = None
    return tuple(sorted(names))
