"""Making models small without making them others."""

# Transformers' configuration classes are half typed:
# pyright: basic
from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

import torch
from transformers import PreTrainedConfig

from pilotlight.store_node.engines.config_file import as_count

# Whatever of these a configuration has is made small; the names are those of
# the library's configurations, which have two or three for each size.
_SMALL_SIZES: Mapping[str, int] = {
    "attention_chunk_size": 4,
    "attn_layer_offset": 1,
    "attn_layer_period": 2,
    "ffn_dim": 64,
    "intermediate_size": 64,
    "intermediate_size_mlp": 64,
    "keep_window_size": 4,
    "moe_intermediate_size": 32,
    "n_inner": 64,
    "n_group": 2,
    "n_routed_experts": 4,
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "num_local_experts": 4,
    "sliding_window": 4,
    "topk_group": 1,
    "vocab_size": 64,
}
_WIDTHS = ("hidden_size", "n_embd", "d_model", "word_embed_proj_dim")
_HEADS = ("num_attention_heads", "num_heads", "n_head", "n_heads")
_LAYERS = ("num_hidden_layers", "num_layers", "n_layer", "n_layers")
_CONTEXTS = ("max_position_embeddings", "n_positions")
_SPECIAL_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")

_FEW_HEADS = 2
SHORT_CONTEXT_TOKENS = 64
"""The context of small models."""
# After which some take other positions: in the middle of what is tried.
_SHORT_TEXT = 6

# A configuration that stays larger than this keeps its sizes under other names.
_MOST_PARAMETERS = 32_000_000


def small_config(config: PreTrainedConfig) -> PreTrainedConfig:
    """Return a configuration of the same kind of model, of a few thousand parameters.

    Kept is what decides which code runs: activations, norms, position schemes,
    the size of a head, whether heads share keys, each kind of layer once. The
    library may raise anything where a model does not bear it.
    """
    values = config.to_dict()
    make = cast(Callable[..., PreTrainedConfig], type(config))
    return make(**(values | _changes(values)))


def _changes(values: Mapping[str, Any]) -> dict[str, Any]:
    changes: dict[str, Any] = {
        name: size for name, size in _SMALL_SIZES.items() if as_count(values.get(name))
    }
    changes |= {name: 0 for name in _SPECIAL_IDS if isinstance(values.get(name), int)}
    changes |= {name: SHORT_CONTEXT_TOKENS for name in _CONTEXTS if as_count(values.get(name))}
    changes |= _small_width(values)
    changes |= _short_texts(values)
    changes |= _few_layers(values)
    for name, value in values.items():
        # Models of several parts have a configuration for each.
        if name.endswith("_config") and isinstance(value, dict):
            changes[name] = value | _changes(value)
    return changes


def check_small(model: torch.nn.Module) -> None:
    """Raise ValueError where a model of a small configuration is not small."""
    n_parameters = sum(parameter.numel() for parameter in model.parameters())
    if n_parameters > _MOST_PARAMETERS:
        raise ValueError(f"the smallest known has {n_parameters} parameters")


def _small_width(values: Mapping[str, Any]) -> dict[str, int]:
    width = _first(values, _WIDTHS)
    n_heads = _first(values, _HEADS)
    n_key_heads = as_count(values.get("num_key_value_heads"))
    head_size = as_count(values.get("head_dim")) or width // max(1, n_heads)
    changes = {name: _FEW_HEADS * head_size for name in _WIDTHS if as_count(values.get(name))}
    changes |= {name: _FEW_HEADS for name in _HEADS if as_count(values.get(name))}
    if n_key_heads:
        changes["num_key_value_heads"] = 1 if n_key_heads < n_heads else _FEW_HEADS
    return changes


def _few_layers(values: Mapping[str, Any]) -> dict[str, Any]:
    """Keep the first layer of each kind, two at least, in lists with an entry per layer too."""
    n_layers = _first(values, _LAYERS)
    lists = {
        name: value
        for name, value in values.items()
        if isinstance(value, list) and len(value) == n_layers
    }
    kinds: dict[str, int] = {}
    for layer in range(n_layers):
        kinds.setdefault(str([value[layer] for value in lists.values()]), layer)
    kept = list(kinds.values())
    # Where kinds take turns instead, by a pattern that is repeated, all of it.
    pattern = values.get("block_types")
    least = min(n_layers, max(2, len(pattern) if isinstance(pattern, list) else 0))
    kept += [layer for layer in range(n_layers) if layer not in kept][: max(0, least - len(kept))]
    kept.sort()
    few = {name: [value[layer] for layer in kept] for name, value in lists.items()}
    return few | {name: len(kept) for name in _LAYERS if as_count(values.get(name))}


def _short_texts(values: Mapping[str, Any]) -> dict[str, Any]:
    """Let what is a long text, to models that take other positions for those, be a short one."""
    changes: dict[str, Any] = {}
    for name, value in values.items():
        if name == "original_max_position_embeddings" and as_count(value):
            changes[name] = _SHORT_TEXT
        elif isinstance(value, dict):
            changes |= {name: {**value, **inner}} if (inner := _short_texts(value)) else {}
    return changes


def _first(values: Mapping[str, Any], names: tuple[str, ...]) -> int:
    return next(filter(None, (as_count(values.get(name)) for name in names)), 0)
