"""What all sections of a scenario file share: how strict they are, and kinds of numbers."""

from __future__ import annotations

from typing import Annotated, TypeAlias

import msgspec


class Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Part of a scenario file; a key that it does not know is an error."""


Amount: TypeAlias = Annotated[float, msgspec.Meta(ge=0.0)]
Positive: TypeAlias = Annotated[float, msgspec.Meta(gt=0.0)]
Burstiness: TypeAlias = Annotated[float, msgspec.Meta(gt=0.0, le=100.0)]
"""A coefficient of variation; at 100, ten thousand requests come at once."""
Count: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=1_000_000)]
Number: TypeAlias = Annotated[int, msgspec.Meta(ge=1, le=1_000_000)]
Name: TypeAlias = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*\Z")]
