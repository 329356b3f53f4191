"""Figures for programs, written whole or not at all."""

from __future__ import annotations

import json
import math
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from pilotlight.process.bench.errors import BenchFailed


def require_writable(file: Path) -> None:
    """Refuse a place where nothing can be written, before minutes of measuring.

    Raises:
        BenchFailed: with the reason.
    """
    if file.is_dir():
        raise BenchFailed(f"{file} can't be written: it is a directory")
    try:
        with tempfile.TemporaryFile(dir=file.parent):
            pass
    except OSError as exc:
        raise BenchFailed(f"{file} can't be written: {exc.strerror}") from exc


def write_document(document: Mapping[str, Any], file: Path) -> None:
    """Write it whole or not at all; what is not finite is null.

    Raises:
        BenchFailed: with the reason.
    """
    text = json.dumps(_finite(document), indent=1, allow_nan=False) + "\n"
    target = file.resolve()
    if target.exists() and not target.is_file():
        # A pipe or a device, which nobody wants replaced.
        target.write_text(text)
        return
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    try:
        with open(handle, "w") as partial:
            partial.write(text)
        # As a file has them that is simply opened.
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(name, 0o666 & ~umask)
        os.replace(name, target)
    except BaseException as exc:
        os.unlink(name)
        if isinstance(exc, OSError):
            raise BenchFailed(f"{file} can't be written: {exc.strerror}") from exc
        raise


def _finite(value: Any) -> Any:
    """Return the value with null for what JSON has no number for."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(each) for key, each in cast("Mapping[str, Any]", value).items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in cast("Sequence[Any]", value)]
    return value
