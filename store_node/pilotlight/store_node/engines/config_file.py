"""The config.json of a checkpoint."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from pilotlight.store_node.errors import UnsupportedModel

_MOST_COUNT = 2**31 - 1
"""More than any model has of anything, and the wire carries it."""


def read_config(directory: Path) -> dict[str, Any]:
    """Return what config.json says.

    Raises:
        UnsupportedModel: there is none, or it is no JSON object.
    """
    path = directory / "config.json"
    try:
        return parse_config(path.read_bytes())
    except OSError as error:
        raise UnsupportedModel(f"{path} can't be read: {error.strerror}") from error
    except ValueError as error:
        raise UnsupportedModel(f"{path} is no JSON object: {error}") from error


def parse_config(text: bytes) -> dict[str, Any]:
    """Return what a configuration says; numbers may be infinite, as Python writes them.

    Raises:
        ValueError: it is no JSON object.
    """
    try:
        values = json.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    return msgspec.convert(values, dict[str, Any])


def first_count(config: Mapping[str, Any], *names: str) -> int:
    """Return the first of these settings that counts something, or 0."""
    return next(filter(None, (as_count(config.get(name)) for name in names)), 0)


def as_count(value: object) -> int:
    """Return a setting that is a whole number from 1 to 2**31 - 1; 0 for all else."""
    # In Python True is an int, in JSON it is not.
    return value if type(value) is int and 0 < value <= _MOST_COUNT else 0
