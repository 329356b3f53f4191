"""In which order a packed checkpoint stores its tensors."""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import IntEnum

ALIGNMENT_BYTES = 256
"""What devices want their tensors aligned to."""


class Stage(IntEnum):
    """When a forward pass uses a tensor."""

    EMBEDDING = 0
    LAYER = 1
    AFTER_LAYERS = 2
    HEAD = 3


_EMBEDDINGS = re.compile(r"(^|[._])(embed|embedding|embeddings|wte|wpe|tok_embeddings)")
_HEADS = re.compile(r"(^|\.)(lm_head|embed_out|output|score|classifier)(\.|$)")
_LAYERS = re.compile(r"\.(\d+)\.")


def packed_order(sizes_bytes: Mapping[str, int]) -> list[str]:
    """Return the names of tensors of those sizes in the order of their bytes, without holes.

    First the tensors whose size is a multiple of 256 bytes, in the order in which
    a forward pass uses them; then the rest by falling power of two of their size.
    All but a handful are then aligned to 256 bytes, and each to its item size.
    """
    return sorted(sizes_bytes, key=lambda name: _key(name, sizes_bytes[name]))


def _key(name: str, size_bytes: int) -> tuple[int, int, int, str]:
    # A size of no bytes is a multiple of everything.
    power = size_bytes & -size_bytes if size_bytes else ALIGNMENT_BYTES
    if power >= ALIGNMENT_BYTES:
        return (0, *stage_of(name), name)
    return (1, -power, 0, name)


def stage_of(name: str) -> tuple[Stage, int]:
    """Return when a forward pass uses a tensor, as its name tells, and in which layer."""
    layer = _LAYERS.search(name)
    if layer is not None:
        return Stage.LAYER, int(layer[1])
    if _HEADS.search(name):
        return Stage.HEAD, 0
    return (Stage.EMBEDDING if _EMBEDDINGS.search(name) else Stage.AFTER_LAYERS), 0
