"""Positions that mean the same whatever else is computed."""

# Transformers' model classes are half typed:
# pyright: basic
from __future__ import annotations

from typing import Any

import torch
from transformers import PreTrainedModel
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

_BY_LENGTH = "longrope"
_PINNED = "pinned"


def pin_frequencies(model: PreTrainedModel, *, context_tokens: int) -> bool:
    """Fix the rotary frequencies of models that have some for short and some for long texts.

    The library takes the long ones for a forward in which any position is
    beyond what the model was first trained on. A token would then depend on the
    other requests in its step, and on how its prompt was cut. Here a replica
    takes the long ones for everything, if its context is as long. Returns
    whether it does.
    """
    is_long = False
    for module in model.modules():
        kinds: Any = getattr(module, "rope_type", None)
        if kinds == _BY_LENGTH:
            is_long |= _pin(module, None, context_tokens)
            module.rope_type = _PINNED  # type: ignore[assignment]  # no submodule, but text
        elif isinstance(kinds, dict):
            layers = [layer for layer, kind in kinds.items() if kind == _BY_LENGTH]
            for layer in layers:
                is_long |= _pin(module, layer, context_tokens)
            module.rope_type = kinds | dict.fromkeys(layers, _PINNED)  # type: ignore[assignment]
    return is_long


def _pin(module: Any, layer_type: str | None, context_tokens: int) -> bool:
    parameters = module.config.rope_parameters
    prefix = ""
    if layer_type is not None:
        parameters, prefix = parameters[layer_type], f"{layer_type}_"
    longest_short = parameters["original_max_position_embeddings"]
    if context_tokens <= longest_short:
        return False
    frequencies: torch.Tensor = getattr(module, f"{prefix}inv_freq")
    long, _ = ROPE_INIT_FUNCTIONS[_BY_LENGTH](
        module.config,
        frequencies.device,
        seq_len=longest_short + 1,
        layer_type=layer_type,
    )
    frequencies.copy_(long)
    return True
