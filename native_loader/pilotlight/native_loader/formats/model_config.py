"""What config.json says of a model that matters to its weights."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, cast

from pilotlight.native_loader.errors import CorruptCheckpoint, OutsideRoots
from pilotlight.native_loader.formats.confinement import Roots
from pilotlight.native_loader.formats.json_objects import parse_json_object
from pilotlight.native_loader.formats.whole_files import read_whole

CONFIG_NAME = "config.json"
_MAX_BYTES = 10_000_000
_HEAD = "lm_head.weight"
_EMBEDDINGS = (".embed_tokens.weight", ".wte.weight", ".word_embeddings.weight")


def read_model_config(directory: Path, roots: Roots | None = None) -> Mapping[str, Any]:
    """Return config.json; nothing where it is absent, or no JSON object.

    Raises:
        OutsideRoots: it is a link that leads outside.
    """
    try:
        file = directory / CONFIG_NAME
        raw = read_whole(file, most_bytes=_MAX_BYTES, roots=roots or Roots([]))
        return parse_json_object(raw, file)
    except OutsideRoots:
        raise
    except (OSError, CorruptCheckpoint):
        # Weights load without it; whoever builds the model will say what is wrong.
        return {}


def says_tied(config: Mapping[str, Any]) -> bool | None:
    """Return whether a model's head is its embedding; None where the config does not say."""
    text = config.get("text_config")
    nested = (
        cast("Mapping[str, Any]", text).get("tie_word_embeddings") if _is_object(text) else None
    )
    stated = config.get("tie_word_embeddings", nested)
    return stated if isinstance(stated, bool) else None


def tied_aliases(config: Mapping[str, Any], names: Collection[str]) -> dict[str, str]:
    """Return the alias that a config declares for a head that is not stored."""
    if says_tied(config) is not True or any(name.endswith(_HEAD) for name in names):
        return {}
    found = [name for name in names if f".{name}".endswith(_EMBEDDINGS)]
    return {_HEAD: found[0]} if len(found) == 1 else {}


def _is_object(value: object) -> bool:
    return isinstance(value, dict)
