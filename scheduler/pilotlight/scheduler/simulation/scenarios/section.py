"""What all sections of a scenario file share: how strict they are, and kinds of numbers."""

from __future__ import annotations

from typing import Annotated, TypeAlias

import msgspec


class Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Part of a scenario file; a key that it does not know is an error."""


Amount: TypeAlias = Annotated[float, msgspec.Meta(ge=0.0, le=1e9)]
"""Of seconds, say: thirty years."""
Positive: TypeAlias = Annotated[float, msgspec.Meta(gt=0.0, le=1e15)]
"""Of bytes per second, say."""
Size: TypeAlias = Annotated[float, msgspec.Meta(gt=0.0, le=1e6)]
"""In GB or GiB: a million is a petabyte."""
Room: TypeAlias = Annotated[float, msgspec.Meta(ge=0.0, le=1e6)]
"""The same, or none."""
Spread: TypeAlias = Annotated[float, msgspec.Meta(ge=0.0, le=2.0)]
"""A standard deviation of a logarithm; at 2, one in six takes seven times as long."""
Burstiness: TypeAlias = Annotated[float, msgspec.Meta(ge=0.01, le=100.0)]
"""A coefficient of variation; at 0.01 requests come like a clock, at 100 ten thousand at once."""
Count: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=1_000_000)]
Number: TypeAlias = Annotated[int, msgspec.Meta(ge=1, le=1_000_000)]
Name: TypeAlias = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*\Z")]
