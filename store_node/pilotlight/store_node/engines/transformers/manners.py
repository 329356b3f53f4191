"""Finding out how models may be computed, by computing tiny ones."""

# Transformers' configuration classes are half typed:
# pyright: basic
from __future__ import annotations

import copy
import enum
import logging
from collections.abc import Callable, Sequence
from typing import Any

import torch
from transformers import PreTrainedConfig, PreTrainedModel

from pilotlight.store_node.engines.transformers.attention import ATTENTION
from pilotlight.store_node.engines.transformers.configuration import one_line
from pilotlight.store_node.engines.transformers.decoder import (
    Decoder,
    PackedDecoder,
    Part,
    SeparateDecoder,
    StateKept,
)
from pilotlight.store_node.engines.transformers.model import build_model
from pilotlight.store_node.engines.transformers.positions import pin_frequencies
from pilotlight.store_node.engines.transformers.small import (
    SHORT_CONTEXT_TOKENS,
    check_small,
    small_config,
)
from pilotlight.store_node.errors import UnsupportedModel

_log = logging.getLogger(__name__)

# Two sequences as a step loop might cut them: chunks of prompts beside single tokens.
_LONG = (11, 5, 17, 3, 29, 8, 41, 2, 23, 7)
_SHORT = (19, 4, 31, 13, 6)
_CHUNKS = (((0, 4), (0, 2)), ((4, 7), (2, 4)), ((7, 9), (4, 5)), ((9, 10), (5, 5)))
_TOKENS = (((0, 7), (0, 3)), ((7, 8), (3, 4)), ((8, 9), (4, 5)), ((9, 10), (5, 5)))

_Steps = Sequence[tuple[tuple[int, int], tuple[int, int]]]

# Weights so wide that the smallest mistake is as large as the logits; rounding is not.
_SPREAD = 0.5
_TOLERANCE = 1e-3


class Manner(enum.StrEnum):
    """How sequences of a kind of model are computed."""

    PACKED = "packed"
    """All in one row, by `PackedDecoder`."""
    CHUNKED = "chunked"
    """One after another, by `SeparateDecoder`; prompts in chunks."""
    WHOLE = "whole"
    """The same, but prompts as a whole: what is added later has to be single tokens."""


_known: dict[str, Manner | None] = {}


def manner_of(config: PreTrainedConfig) -> Manner:
    """Return the best manner that computes what the library computes for a whole text.

    Found by comparing them on a tiny model of the same kind, once for each kind in
    a process and those forked from it. Where nothing can be compared, it is the
    manner of the library's own `generate`.

    Raises:
        UnsupportedModel: no manner does.
    """
    try:
        small = small_config(config)
    # The library's configurations raise anything where they don't bear being made small.
    except Exception as error:
        _log.info("%s can't be tried small: %s", config.model_type, one_line(error))
        return Manner.WHOLE
    key = small.to_json_string(use_diff=False)
    if key not in _known:
        _known[key] = _try(small)
        _log.info("%s is computed in the manner %r", small.model_type, str(_known[key]))
    manner = _known[key]
    if manner is None:
        raise UnsupportedModel(
            f"models of type {config.model_type!r} keep their state to themselves, or come to"
            " other tokens one by one than as a whole: no request could be resumed"
        )
    return manner


def _try(small: PreTrainedConfig) -> Manner | None:
    try:
        separate = SeparateDecoder(_build(small, attention=None))
        expected = torch.stack([_whole(separate, ids) for ids in (_LONG, _SHORT)])
    except StateKept:
        return None
    # A model may need what only a larger one has, and the library's code breaks anywhere then.
    except Exception as error:
        _log.info("no tiny %s could be computed: %s", small.model_type, one_line(error))
        return Manner.WHOLE
    if _computes(lambda: PackedDecoder(_build(small, attention=ATTENTION)), expected, _CHUNKS):
        return Manner.PACKED
    if _computes(lambda: separate, expected, _CHUNKS):
        return Manner.CHUNKED
    return Manner.WHOLE if _computes(lambda: separate, expected, _TOKENS) else None


def _computes(make: Callable[[], Decoder[Any]], expected: torch.Tensor, steps: _Steps) -> bool:
    """Whether a decoder comes to the same logits in steps."""
    try:
        gap = (_in_steps(make(), steps) - expected).abs().max() / expected.std()
    # A model that is not made for this may break anywhere in the library's code.
    except Exception as error:
        _log.debug("computing in steps breaks: %s", one_line(error))
        return False
    return bool(gap <= _TOLERANCE)


def _build(config: PreTrainedConfig, *, attention: str | None) -> PreTrainedModel:
    # The library writes the kind of attention into the configuration that it is given.
    check_small(build_model(copy.deepcopy(config), torch.float32))
    with torch.random.fork_rng(devices=[]):
        model = build_model(copy.deepcopy(config), torch.float32, attention=attention, device="cpu")
    generator = torch.Generator().manual_seed(7)
    for parameter in model.parameters():
        if parameter.is_floating_point():
            parameter.normal_(0, _SPREAD, generator=generator)
    pin_frequencies(model, context_tokens=SHORT_CONTEXT_TOKENS)
    return model


def _whole(decoder: SeparateDecoder, ids: Sequence[int]) -> torch.Tensor:
    return decoder.extend([Part(decoder.begin(len(ids)), ids, wants_logits=True)])[0]


def _in_steps(decoder: Decoder[Any], steps: _Steps) -> torch.Tensor:
    """Return the logits that follow both sequences, computed side by side."""
    long, short = decoder.begin(len(_LONG)), decoder.begin(len(_SHORT))
    last: dict[int, torch.Tensor] = {}
    for (begin, end), (short_begin, short_end) in steps:
        parts = [Part(long, _LONG[begin:end], wants_logits=True)]
        if short_end > short_begin:
            parts.append(Part(short, _SHORT[short_begin:short_end], wants_logits=True))
        for row, part in zip(decoder.extend(parts), parts, strict=True):
            last[id(part.sequence)] = row
    return torch.stack([last[id(long)], last[id(short)]])
