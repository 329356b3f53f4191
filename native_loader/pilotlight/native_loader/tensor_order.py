"""In which order a packed checkpoint stores its tensors."""

from __future__ import annotations

import re
from collections.abc import Mapping

from pilotlight.native_loader.parts import TensorEntry

ALIGNMENT_BYTES = 256
"""What devices want their tensors aligned to."""

_EMBEDDING, _LAYER, _AFTER_LAYERS, _HEAD = range(4)
_EMBEDDINGS = re.compile(r"(^|[._])(embed|embedding|embeddings|wte|wpe|tok_embeddings)")
_HEADS = re.compile(r"(^|\.)(lm_head|embed_out|output|score|classifier)(\.|$)")
_LAYERS = re.compile(r"\.(\d+)\.")


def packed_order(tensors: Mapping[str, TensorEntry]) -> list[str]:
    """Return the names in the order of their bytes, with no hole between them.

    First the tensors whose size is a multiple of 256 bytes, in the order in which
    a forward pass uses them; then the rest by falling power of two of their size.
    All but a handful are then aligned to 256 bytes, and each to its item size.
    """
    return sorted(tensors, key=lambda name: _key(name, tensors[name].size_bytes))


def _key(name: str, size_bytes: int) -> tuple[int, int, int, str]:
    # A size of no bytes is a multiple of everything.
    power = size_bytes & -size_bytes if size_bytes else ALIGNMENT_BYTES
    if power >= ALIGNMENT_BYTES:
        return (0, *_place(name), name)
    return (1, -power, 0, name)


def _place(name: str) -> tuple[int, int]:
    layer = _LAYERS.search(name)
    if layer is not None:
        return _LAYER, int(layer[1])
    if _HEADS.search(name):
        return _HEAD, 0
    return (_EMBEDDING if _EMBEDDINGS.search(name) else _AFTER_LAYERS), 0
