"""Finding out which models can be computed in one row, by computing tiny ones."""

# Transformers' configuration classes are half typed:
# pyright: basic
from __future__ import annotations

import copy
import logging
from collections.abc import Sequence

import torch
from transformers import PreTrainedConfig, PreTrainedModel

from pilotlight.store_node.engines.transformers.attention import ATTENTION
from pilotlight.store_node.engines.transformers.configuration import one_line
from pilotlight.store_node.engines.transformers.decoder import (
    PackedDecoder,
    Part,
    SeparateDecoder,
)
from pilotlight.store_node.engines.transformers.model import build_model
from pilotlight.store_node.engines.transformers.small import check_small, small_config

_log = logging.getLogger(__name__)

# Two sequences as a step loop might cut them: chunks of prompts beside single tokens.
_LONG = (11, 5, 17, 3, 29, 8, 41, 2, 23, 7)
_SHORT = (19, 4, 31, 13, 6)
_STEPS = (((0, 4), (0, 2)), ((4, 7), (2, 4)), ((7, 9), (4, 5)), ((9, 10), (5, 5)))

# Weights so wide that the smallest mistake is as large as the logits; rounding is not.
_SPREAD = 0.5
_TOLERANCE = 1e-3

_known: dict[str, bool] = {}


def can_pack(config: PreTrainedConfig) -> bool:
    """Whether `PackedDecoder` computes models of that configuration as the library does.

    Found by comparing the two on a tiny model of the same kind, once
    for each kind in a process and those forked from it.
    """
    try:
        small = small_config(config)
    # The library's configurations raise anything where they don't bear being made small.
    except Exception as error:
        _log.warning("%s can't be tried small: %s", config.model_type, one_line(error))
        return False
    key = small.to_json_string(use_diff=False)
    if key not in _known:
        _known[key] = _try(small)
    return _known[key]


def _try(small: PreTrainedConfig) -> bool:
    try:
        separate = SeparateDecoder(_build(small, attention=None))
        expected = torch.stack([_whole(separate, ids) for ids in (_LONG, _SHORT)])
        packed = _in_steps(PackedDecoder(_build(small, attention=ATTENTION)))
        gap = (packed - expected).abs().max() / expected.std()
    # A model that is not made for this may break anywhere in the library's code.
    except Exception as error:
        _log.info("%s is computed one by one: %s", small.model_type, one_line(error))
        return False
    if not bool(gap <= _TOLERANCE):
        _log.info("%s is computed one by one: packed it is off by %g", small.model_type, gap)
        return False
    return True


def _build(config: PreTrainedConfig, *, attention: str | None) -> PreTrainedModel:
    # The library writes the kind of attention into the configuration that it is given.
    model = build_model(copy.deepcopy(config), torch.float32, attention=attention)
    check_small(model)
    generator = torch.Generator().manual_seed(7)
    weights = {
        name: torch.empty_like(tensor, device="cpu").normal_(0, _SPREAD, generator=generator)
        for name, tensor in model.state_dict().items()
        if tensor.is_floating_point()
    }
    model.load_state_dict(weights, strict=False, assign=True)
    model.tie_weights(missing_keys=set(), recompute_mapping=False)
    return model


def _whole(decoder: SeparateDecoder, ids: Sequence[int]) -> torch.Tensor:
    return decoder.extend([Part(decoder.begin(len(ids)), ids, wants_logits=True)])[0]


def _in_steps(decoder: PackedDecoder) -> torch.Tensor:
    """Return the logits that follow both sequences, computed side by side."""
    long, short = decoder.begin(len(_LONG)), decoder.begin(len(_SHORT))
    last: dict[int, torch.Tensor] = {}
    for (begin, end), (short_begin, short_end) in _STEPS:
        parts = [Part(long, _LONG[begin:end], wants_logits=True)]
        if short_end > short_begin:
            parts.append(Part(short, _SHORT[short_begin:short_end], wants_logits=True))
        for row, part in zip(decoder.extend(parts), parts, strict=True):
            last[id(part.sequence)] = row
    return torch.stack([last[id(long)], last[id(short)]])
