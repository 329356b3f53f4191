"""What a checkpoint's config.json says of its model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from pilotlight.native_loader import Checkpoint
from pilotlight.store_node.engines.config_file import first_count, parse_config

_CONTEXT_KEYS = ("max_position_embeddings", "n_positions", "max_seq_len", "n_ctx", "seq_length")
_DTYPE_KEYS = ("dtype", "torch_dtype")
_MOST_BYTES = 16 << 20
_MOST_CHARACTERS = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFacts:
    """What schedulers and gateways need to know of a model; empty or 0 where it is not said."""

    architecture: str = ""
    context_tokens: int = 0
    dtype: str = ""
    problem: str = ""
    """Why the configuration can't be used."""


def read_model_facts(checkpoint: Checkpoint) -> ModelFacts:
    """Read config.json; one that is there and makes no sense is a problem, none is not."""
    if "config.json" not in checkpoint.execution_files:
        return ModelFacts(dtype=_stored_dtype(checkpoint))
    path = checkpoint.path / "config.json"
    try:
        with path.open("rb") as file:
            config = parse_config(file.read(_MOST_BYTES))
    except (OSError, ValueError) as exc:
        return ModelFacts(problem=f"{path}: no JSON object: {exc}")
    text = config.get("text_config")
    nested: Mapping[str, Any] = cast("dict[str, Any]", text) if isinstance(text, dict) else {}
    return ModelFacts(
        architecture=_text(config, ("model_type",)),
        context_tokens=first_count(config, *_CONTEXT_KEYS) or first_count(nested, *_CONTEXT_KEYS),
        dtype=_text(config, _DTYPE_KEYS) or _text(nested, _DTYPE_KEYS) or _stored_dtype(checkpoint),
    )


def _text(config: Mapping[str, Any], keys: tuple[str, ...]) -> str:
    found = (config.get(key) for key in keys)
    return next(
        (value for value in found if isinstance(value, str) and len(value) <= _MOST_CHARACTERS), ""
    )


def _stored_dtype(checkpoint: Checkpoint) -> str:
    """Return the type that most bytes have, as safetensors calls it, in lower case."""
    sizes: Counter[str] = Counter()
    for tensor in checkpoint.tensors.values():
        sizes[tensor.dtype] += tensor.size_bytes
    return sizes.most_common(1)[0][0].lower() if sizes else ""
