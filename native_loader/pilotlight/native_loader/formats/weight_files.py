"""Which files of a directory hold the weights."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import msgspec

from pilotlight.native_loader.errors import CorruptCheckpoint, NotACheckpoint, PickleRefused
from pilotlight.native_loader.formats.confinement import Roots
from pilotlight.native_loader.formats.json_objects import count_strings, parse_json_object
from pilotlight.native_loader.formats.unicode_text import is_unicode
from pilotlight.native_loader.formats.whole_files import read_whole

SINGLE_NAME = "model.safetensors"
INDEX_NAME = "model.safetensors.index.json"
SUFFIX = ".safetensors"
_PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
_MAX_INDEX_BYTES = 100_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightFiles:
    """The weight files of a checkpoint as it is, by name."""

    directory: Path
    names: tuple[str, ...]
    weight_map: Mapping[str, str] = field(default_factory=dict[str, str])
    """Tensor to file, as the index says; empty where there is no index."""


def find_weight_files(path: Path, roots: Roots) -> WeightFiles:
    """Return the weight files of a directory, or the one that `path` is.

    The order of preference is that of transformers: model.safetensors, then the
    index, then a single file of another name.

    Raises:
        NotACheckpoint: there are none.
        PickleRefused: there are only pickles.
        CorruptCheckpoint: the index makes no sense.
        OutsideRoots: the index is a link that leads outside.
    """
    if path.is_file():
        return WeightFiles(directory=path.parent, names=(_single_file(path),))
    if path.exists() and not path.is_dir():
        raise NotACheckpoint(path, "is no directory and no regular file")
    names = sorted(os.listdir(path))
    if SINGLE_NAME in names:
        return WeightFiles(directory=path, names=(SINGLE_NAME,))
    if INDEX_NAME in names:
        return _indexed(path, roots)
    found = [name for name in names if name.endswith(SUFFIX)]
    if len(found) == 1:
        return WeightFiles(directory=path, names=(found[0],))
    if found:
        raise NotACheckpoint(path, f"holds {len(found)} safetensors files and no {INDEX_NAME}")
    pickles = [name for name in names if _is_pickle(name)]
    if pickles:
        raise PickleRefused(path / pickles[0])
    raise NotACheckpoint(path, "holds no safetensors weights")


def check_plain_name(name: str, file: Path) -> None:
    """Check that a name which `file` mentions is that of a file beside it.

    Raises:
        CorruptCheckpoint: it is a path that could lead elsewhere, or no text.
    """
    if name in ("", ".", "..") or "/" in name or "\0" in name or not is_unicode(name):
        raise CorruptCheckpoint(file, f"names the file {name!r}, which is no plain file name")


def _single_file(path: Path) -> str:
    if _is_pickle(path.name):
        raise PickleRefused(path)
    if not path.name.endswith(SUFFIX):
        raise NotACheckpoint(path, "is neither a directory nor a safetensors file")
    return path.name


def _is_pickle(name: str) -> bool:
    return name.endswith(_PICKLE_SUFFIXES)


def _indexed(directory: Path, roots: Roots) -> WeightFiles:
    file = directory / INDEX_NAME
    raw = read_whole(file, most_bytes=_MAX_INDEX_BYTES, roots=roots)
    weight_map = _plain_weight_map(raw) or _weight_map(raw, file)
    names = dict.fromkeys(weight_map.values())
    for name in names:
        _check_file_name(name, file)
    return WeightFiles(directory=directory, names=tuple(sorted(names)), weight_map=weight_map)


class _PlainIndex(msgspec.Struct, kw_only=True):
    """An index as nearly all are."""

    weight_map: dict[str, str]
    metadata: dict[str, int | float]


_N_FIELDS = 2


def _plain_weight_map(raw: bytes) -> dict[str, str] | None:
    """Return the map of an index without anything unusual; None where it takes more to tell."""
    try:
        index = msgspec.json.decode(raw, type=_PlainIndex)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    n_strings = _N_FIELDS + 2 * len(index.weight_map) + len(index.metadata)
    return index.weight_map if n_strings == count_strings(raw) else None


def _weight_map(raw: bytes, file: Path) -> dict[str, str]:
    weight_map = parse_json_object(raw, file).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CorruptCheckpoint(file, "has no weight_map")
    files = cast("dict[str, object]", weight_map)
    if not all(isinstance(value, str) for value in files.values()):
        raise CorruptCheckpoint(file, "maps a tensor to something else than a file name")
    return cast("dict[str, str]", weight_map)


def _check_file_name(name: str, file: Path) -> None:
    check_plain_name(name, file)
    if _is_pickle(name):
        raise PickleRefused(file.parent / name)
    if not name.endswith(SUFFIX):
        raise CorruptCheckpoint(file, f"names {name!r}, which is no safetensors file")
