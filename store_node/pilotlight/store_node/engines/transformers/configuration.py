"""Reading a checkpoint's config.json, and what of it the engine can't run."""

# Transformers' configuration classes are half typed:
# pyright: basic
from __future__ import annotations

import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, PreTrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

from pilotlight.store_node.engines.config_file import as_count, first_count, read_config
from pilotlight.store_node.errors import UnsupportedModel

BUILDING_ERRORS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    ImportError,
    LookupError,
    RuntimeError,
    StrictDataclassError,
    TypeError,
    ValueError,
)
"""What the library raises where a configuration makes no sense to it."""

_DTYPES = {
    "float64": torch.float64,
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}

_CONTEXTS = ("max_position_embeddings", "n_positions", "max_target_positions")

# For models whose positions have no end, which say nothing of a context.
_UNSTATED_CONTEXT_TOKENS = 2048


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSettings:
    """What of a configuration a step loop needs to know."""

    context_tokens: int
    vocabulary: int
    kv_token_items: int
    """Numbers that the keys and values of one token are; 0 where the configuration says
    too little to tell."""


def read_model_config(directory: Path, *, allow_custom_code: bool = False) -> PreTrainedConfig:
    """Read config.json.

    Raises:
        UnsupportedModel: it is absent or malformed, or needs what is not here.
    """
    _check(directory, read_config(directory), allow_custom_code=allow_custom_code)
    try:
        config: PreTrainedConfig = AutoConfig.from_pretrained(
            directory, local_files_only=True, trust_remote_code=allow_custom_code
        )
    except (*BUILDING_ERRORS, OSError) as error:
        raise UnsupportedModel(f"{directory / 'config.json'}: {one_line(error)}") from error
    # What the step loop reads by name, whatever the file asks for.
    config.return_dict = True
    config.output_attentions = config.output_hidden_states = False
    _check_window(config)
    return config


def _check_window(config: PreTrainedConfig) -> None:
    window = config.to_dict().get("sliding_window")
    if window is not None and not as_count(window):
        raise UnsupportedModel(f"a sliding window of {window} tokens makes no sense")


def settings_of(config: PreTrainedConfig, *, context_tokens: int) -> ModelSettings:
    """Return what a replica is to know; `context_tokens` is what it asks for, 0 = all."""
    text_config = config.get_text_config()
    stated = first_count(text_config.to_dict(), *_CONTEXTS)
    longest = stated or _UNSTATED_CONTEXT_TOKENS
    return ModelSettings(
        context_tokens=min(context_tokens or longest, longest),
        vocabulary=text_config.vocab_size,
        kv_token_items=_kv_token_items(text_config),
    )


def choose_dtype(wanted: str, config: PreTrainedConfig) -> torch.dtype | None:
    """Return the dtype that a replica asks for, else the stated one, else None.

    Raises:
        UnsupportedModel: no such dtype is known.
    """
    if wanted in _DTYPES:
        return _DTYPES[wanted]
    if wanted not in ("", "auto"):
        known = ", ".join(("auto", *_DTYPES))
        raise UnsupportedModel(f"dtype {wanted!r} is unknown; known: {known}")
    stated = config.get_text_config().dtype
    return stated if isinstance(stated, torch.dtype) else None


def _kv_token_items(config: PreTrainedConfig) -> int:
    # Some configurations have sizes that differ by layer, and raise where one is asked for.
    values = config.to_dict()
    n_layers = as_count(values.get("num_hidden_layers"))
    n_heads = as_count(values.get("num_attention_heads"))
    n_key_heads = as_count(values.get("num_key_value_heads")) or n_heads
    size = as_count(values.get("head_dim")) or as_count(values.get("hidden_size")) // max(
        1, n_heads
    )
    return 2 * n_layers * n_key_heads * size


def _check(directory: Path, values: Mapping[str, Any], *, allow_custom_code: bool) -> None:
    """Refuse what would need code that is not allowed, or kernels for quantised weights."""
    model_type = values.get("model_type")
    if not isinstance(model_type, str):
        raise UnsupportedModel(f"{directory / 'config.json'} names no model_type")
    if values.get("quantization_config"):
        raise UnsupportedModel(f"the weights of {directory.name!r} are quantised")
    if "auto_map" in values and allow_custom_code:
        return
    if model_type not in CONFIG_MAPPING:
        reason = (
            "its code comes with the checkpoint, and the node's setting allow_custom_code is off"
            if "auto_map" in values
            else "the installed transformers does not know it"
        )
        raise UnsupportedModel(f"model type {model_type!r} can't be built: {reason}")
    if CONFIG_MAPPING[model_type] not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise UnsupportedModel(f"model type {model_type!r} is no causal language model")


def one_line(error: Exception) -> str:
    """Return what an error of the library says, which may be many lines, as a short one."""
    return textwrap.shorten(str(error) or type(error).__name__, width=300, placeholder=" ...")
