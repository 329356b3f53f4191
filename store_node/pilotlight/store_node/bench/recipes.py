"""What checkpoints of random weights are made of; making them is `making`'s, which needs torch."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CONTEXT_TOKENS = 2048

_TRADE = "1"
"""Grows when the same recipe makes something else, so that kept checkpoints are made anew."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """One checkpoint: what transformers calls its type, and its configuration."""

    name: str
    model_type: str
    config: Mapping[str, Any]

    @property
    def digest(self) -> str:
        """Return what changes with anything that is made."""
        return hashlib.sha256(f"{_TRADE} {self!r}".encode()).hexdigest()

    def is_made(self, directory: Path) -> bool:
        """Whether its folder lies below a directory, as this recipe makes it."""
        mark = self.mark(directory)
        is_there = (directory / self.name).is_dir() and mark.exists()
        return is_there and mark.read_text() == self.digest

    def mark(self, directory: Path) -> Path:
        """Return the file that says how the folder beside it was made."""
        return directory / f".{self.name}.recipe"


def _llama(
    *, vocabulary: int, hidden: int, inner: int, layers: int, heads: int, kv_heads: int
) -> dict[str, Any]:
    return {
        "vocab_size": vocabulary,
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "max_position_embeddings": CONTEXT_TOKENS,
        "initializer_range": 0.15,
    }


LLAMA_130M = Recipe(
    name="llama-130m",
    model_type="llama",
    config=_llama(vocabulary=32_000, hidden=768, inner=2304, layers=12, heads=12, kv_heads=4),
)
LLAMA_23M = Recipe(
    name="llama-23m",
    model_type="llama",
    config=_llama(vocabulary=16_000, hidden=384, inner=896, layers=8, heads=6, kv_heads=2),
)
GPT2_34M = Recipe(
    name="gpt2-34m",
    model_type="gpt2",
    config={
        "vocab_size": 16_000,
        "n_embd": 512,
        "n_layer": 8,
        "n_head": 8,
        "n_positions": CONTEXT_TOKENS,
        "initializer_range": 0.15,
    },
)

STARTED: Sequence[Recipe] = (LLAMA_130M, LLAMA_23M, GPT2_34M)
"""Those whose starts are measured; the first is the one that the targets are about."""
SERVED: Sequence[Recipe] = (LLAMA_23M, LLAMA_130M)
"""Those whose throughput is measured."""
SHORT: Sequence[Recipe] = (LLAMA_23M,)
"""Those of a short bench, in both places."""


def find_recipe(name: str) -> Recipe:
    """Return one of those that are started or served."""
    return next(recipe for recipe in (*STARTED, *SERVED) if recipe.name == name)


TINY_CONTEXT_TOKENS = 160
TINY_VOCABULARY = 128

_TINY: Mapping[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}
_TINY_GROUPED: Mapping[str, Any] = {**_TINY, "num_key_value_heads": 2}

_TINY_CONFIGS: Mapping[str, Mapping[str, Any]] = {
    "llama": _TINY_GROUPED,
    "qwen2": _TINY_GROUPED,
    "qwen3": {**_TINY_GROUPED, "head_dim": 8, "tie_word_embeddings": True},
    "mistral": {**_TINY_GROUPED, "head_dim": 8, "sliding_window": 24},
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": TINY_CONTEXT_TOKENS},
    "opt": {
        "hidden_size": 32,
        "ffn_dim": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "word_embed_proj_dim": 32,
        "init_std": 0.5,
    },
    "gemma": {**_TINY_GROUPED, "num_key_value_heads": 1, "head_dim": 8},
    "phi": _TINY,
}

TINY: Sequence[Recipe] = tuple(
    Recipe(
        name=name,
        model_type=name,
        config={
            "vocab_size": TINY_VOCABULARY,
            "max_position_embeddings": TINY_CONTEXT_TOKENS,
            "initializer_range": 0.5,
            **config,
        },
    )
    for name, config in _TINY_CONFIGS.items()
)
"""Those whose outputs are compared: every way of attending that the library has, in small."""
