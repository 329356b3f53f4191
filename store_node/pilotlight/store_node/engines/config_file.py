"""The config.json of a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from pilotlight.store_node.errors import UnsupportedModel


def read_config(directory: Path) -> dict[str, Any]:
    """Return what config.json says.

    Raises:
        UnsupportedModel: there is none, or it is no JSON object.
    """
    path = directory / "config.json"
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
    except OSError as error:
        raise UnsupportedModel(f"{path} can't be read: {error.strerror}") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UnsupportedModel(f"{path} is no JSON object: {error}") from error
