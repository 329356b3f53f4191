"""Compares snapshots, whose columns have no equality of their own."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import numpy as np

from pilotlight.scheduler.core.snapshot import Snapshot


def differing_columns(one: Snapshot, other: Snapshot) -> list[str]:
    """Return the names of the fields in which two snapshots differ."""
    return [
        item.name
        for item in fields(Snapshot)
        if not _are_equal(getattr(one, item.name), getattr(other, item.name))
    ]


def _are_equal(one: Any, other: Any) -> bool:
    """Compare two fields, which may be arrays of any type or none, hence Any."""
    if not hasattr(one, "dtype"):
        return bool(one == other)
    # NaN stands for "none" in several columns.
    return np.array_equal(one, other, equal_nan=one.dtype.kind == "f")
