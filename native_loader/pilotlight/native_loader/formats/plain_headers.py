"""Headers without anything unusual, parsed at once: most files have such headers."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

import msgspec

from pilotlight.native_loader.formats.dtypes import ITEM_BITS
from pilotlight.native_loader.formats.header_rules import METADATA_KEY
from pilotlight.native_loader.formats.json_objects import count_strings
from pilotlight.native_loader.formats.parts import HeaderTensor

_STRINGS_PER_TENSOR = 5
"""Its name, the names of its three fields, and its dtype."""

_MOST_DATA_BYTES = 2**59
"""In fewer bytes no number of items is too large for the format."""

_SPACE = rb"[ \t\r\n]*"
_METADATA_START = re.compile(
    rb"\{%b\"%b\"%b:%b(?=\{)" % (_SPACE, METADATA_KEY.encode(), _SPACE, _SPACE)
)
_METADATA_END = re.compile(rb"%b(?:,%b(?=\")|(?=\}))" % (_SPACE, _SPACE))

_METADATA_DECODER = msgspec.json.Decoder(dict[str, str])
_TENSORS_DECODER = msgspec.json.Decoder(dict[str, HeaderTensor])


def parse_plain(
    text: bytes, data_bytes: int
) -> tuple[dict[str, HeaderTensor], dict[str, str]] | None:
    """Return a header's tensors, in the order of their bytes, and its metadata.

    None where it may break a rule, and where it keeps them all in an unusual way:
    then `parse_by_rules` has the last word.
    """
    try:
        metadata, rest = _cut_metadata(text)
        tensors = _TENSORS_DECODER.decode(rest)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    if METADATA_KEY in tensors or _n_strings(tensors, metadata) != count_strings(text):
        return None
    if not _is_in_order(tensors, data_bytes):
        tensors = dict(sorted(tensors.items(), key=lambda item: item[1].data_offsets))
        if not _is_in_order(tensors, data_bytes):
            return None
    return (tensors, metadata or {}) if _has_right_sizes(tensors, data_bytes) else None


def _cut_metadata(text: bytes) -> tuple[dict[str, str] | None, bytes]:
    """Return the metadata, where it is the first member, and the header without it."""
    start = _METADATA_START.match(text)
    if start is None:
        return None, text
    # A text that holds a brace is cut here, and then the piece is no JSON.
    cut = text.find(b"}") + 1
    end = _METADATA_END.match(text, cut)
    if end is None:
        return None, text
    return _METADATA_DECODER.decode(text[start.end() : cut]), b"{" + text[end.end() :]


def _n_strings(tensors: Mapping[str, HeaderTensor], metadata: Mapping[str, str] | None) -> int:
    """Return how many strings these were made of."""
    of_metadata = 0 if metadata is None else 1 + 2 * len(metadata)
    return _STRINGS_PER_TENSOR * len(tensors) + of_metadata


def _is_in_order(tensors: Mapping[str, HeaderTensor], data_bytes: int) -> bool:
    """Return whether each tensor begins where the one before it ends, and the last one last."""
    reached = 0
    for tensor in tensors.values():
        begin, end = tensor.data_offsets
        if begin != reached:
            return False
        reached = end
    return reached == data_bytes


def _has_right_sizes(tensors: Mapping[str, HeaderTensor], data_bytes: int) -> bool:
    """Return whether each tensor has the bytes that its items need; False for those without."""
    if data_bytes > _MOST_DATA_BYTES:
        return False
    item_bits = dict(ITEM_BITS)
    for tensor in tensors.values():
        begin, end = tensor.data_offsets
        n_bits = math.prod(tensor.shape) * item_bits.get(tensor.dtype, 0)
        if not n_bits or n_bits != (end - begin) * 8:
            return False
    return True
