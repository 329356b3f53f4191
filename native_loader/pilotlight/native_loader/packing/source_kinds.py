"""Finding out in which format a checkpoint is that `pack` is to read."""

from __future__ import annotations

from pathlib import Path

from pilotlight.native_loader.errors import NotACheckpoint, PickleRefused
from pilotlight.native_loader.formats.checkpoint import Checkpoint
from pilotlight.native_loader.packing.checkpoint_source import CheckpointSource
from pilotlight.native_loader.packing.pickle_files import PICKLE_SUFFIXES
from pilotlight.native_loader.packing.pickle_source import PickleSource
from pilotlight.native_loader.packing.serverlessllm_source import (
    ServerlessLLMSource,
    is_serverlessllm,
)
from pilotlight.native_loader.packing.sources import Source


def open_source(path: str | Path) -> Source:
    """Open a checkpoint of any known format for packing.

    Safetensors come first, packed or not; then ServerlessLLM's format; then pickles,
    which a process of their own opens, for weights only.

    Raises:
        NotACheckpoint: it is none, or can't be read here.
        CorruptCheckpoint: a file breaks a rule of its format, or holds more than weights.
        ReadFailed: the file system failed.
    """
    place = Path(path)
    if is_serverlessllm(place):
        return ServerlessLLMSource(place)
    try:
        return CheckpointSource(Checkpoint.open(place))
    except PickleRefused as exc:
        if exc.path.name.endswith(".safetensors"):
            raise
        return PickleSource(place)
    except NotACheckpoint:
        if place.is_file() and place.name.endswith(PICKLE_SUFFIXES):
            return PickleSource(place)
        raise
