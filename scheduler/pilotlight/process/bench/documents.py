"""Figures for programs, written whole or not at all."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

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
    """Write it whole or not at all."""
    partial = file.with_name(f".{file.name}.partial")
    partial.write_text(json.dumps(document, indent=1) + "\n")
    os.replace(partial, file)
