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

from pilotlight.store_node.engines.config_file import as_count, read_config
from pilotlight.store_node.errors import UnsupportedModel

BUILDING_ERRORS = (
    AttributeError,
    ImportError,
    LookupError,
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

# For models whose positions have no end, which say nothing of a context.
_UNSTATED_CONTEXT_TOKENS = 2048


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSettings:
    """What a replica's model is to be."""

    config: PreTrainedConfig
    dtype: torch.dtype | None
    """None: whatever the weights are stored in."""
    context_tokens: int
    vocabulary: int


def read_settings(directory: Path, *, dtype: str, context_tokens: int) -> ModelSettings:
    """Read config.json; `dtype` and `context_tokens` are what the replica asks for.

    Raises:
        UnsupportedModel: it is absent or malformed, or needs what is not here.
    """
    _check(directory, read_config(directory))
    try:
        config = AutoConfig.from_pretrained(
            directory, local_files_only=True, trust_remote_code=False
        )
    except (*BUILDING_ERRORS, OSError) as error:
        raise UnsupportedModel(f"{directory / 'config.json'}: {one_line(error)}") from error
    return settings_of(config, dtype=dtype, context_tokens=context_tokens)


def settings_of(config: PreTrainedConfig, *, dtype: str, context_tokens: int) -> ModelSettings:
    """Return what a replica of a model of that configuration is to be.

    Raises:
        UnsupportedModel: no such dtype is known.
    """
    text_config = config.get_text_config()
    stated = as_count(getattr(text_config, "max_position_embeddings", None))
    longest = stated or _UNSTATED_CONTEXT_TOKENS
    return ModelSettings(
        config=config,
        dtype=_choose_dtype(dtype, text_config),
        context_tokens=min(context_tokens or longest, longest),
        vocabulary=text_config.vocab_size,
    )


def _check(directory: Path, values: Mapping[str, Any]) -> None:
    """Refuse what would need somebody else's code, or kernels for quantised weights."""
    model_type = values.get("model_type")
    if not isinstance(model_type, str):
        raise UnsupportedModel(f"{directory / 'config.json'} names no model_type")
    if model_type not in CONFIG_MAPPING:
        reason = (
            "its code comes with the checkpoint, and such code is never run"
            if "auto_map" in values
            else "the installed transformers does not know it"
        )
        raise UnsupportedModel(f"model type {model_type!r} can't be built: {reason}")
    if CONFIG_MAPPING[model_type] not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise UnsupportedModel(f"model type {model_type!r} is no causal language model")
    if values.get("quantization_config"):
        raise UnsupportedModel(f"the weights of {directory.name!r} are quantised")


def _choose_dtype(wanted: str, config: PreTrainedConfig) -> torch.dtype | None:
    if wanted in _DTYPES:
        return _DTYPES[wanted]
    if wanted not in ("", "auto"):
        known = ", ".join(("auto", *_DTYPES))
        raise UnsupportedModel(f"dtype {wanted!r} is unknown; known: {known}")
    stated = config.dtype
    return stated if isinstance(stated, torch.dtype) else None


def one_line(error: Exception) -> str:
    """Return what an error of the library says, which may be many lines, as a short one."""
    return textwrap.shorten(str(error) or type(error).__name__, width=300, placeholder=" ...")
