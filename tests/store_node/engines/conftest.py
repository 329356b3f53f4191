"""Tiny checkpoints of real architectures, made once for a run of the tests."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from pilotlight.store_node.engines import EngineSetup
from pilotlight.store_node.protocol import ModelId, Reference, ReplicaId, ReplicaSpec

_SHAPES: Mapping[str, dict[str, Any]] = {
    "llama": {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    },
    "qwen2": {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    },
    "mistral": {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "sliding_window": 6,
    },
    "gemma": {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 1,
        "head_dim": 8,
    },
    "phi": {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
    },
    "jamba": {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "attn_layer_period": 2,
        "attn_layer_offset": 1,
        "num_experts": 1,
        "mamba_dt_rank": 4,
        "tie_word_embeddings": False,
    },
    "bloom": {"hidden_size": 32, "n_layer": 2, "n_head": 4},
    "qwen3": {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "tie_word_embeddings": True,
    },
    "opt": {
        "hidden_size": 32,
        "ffn_dim": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "word_embed_proj_dim": 32,
        "init_std": 0.5,
    },
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64},
    "gemma2": {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "sliding_window": 8,
        "tie_word_embeddings": False,
    },
    "mixtral": {
        "hidden_size": 32,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "num_local_experts": 4,
    },
}


class StoredWeights:
    """What a checkpoint's safetensors file holds, in this process's own memory."""

    def __init__(self, directory: Path, aliases: Mapping[str, str] | None = None) -> None:
        self._tensors = load_file(directory / "model.safetensors")
        self.aliases: Mapping[str, str] = aliases or {}
        self.copied_bytes = 0

    @property
    def size_bytes(self) -> int:
        return sum(tensor.nbytes for tensor in self._tensors.values())

    def tensors(self) -> dict[str, torch.Tensor]:
        return self._tensors


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return a function from an architecture to the folder of a tiny checkpoint of it."""
    torch.set_num_threads(1)
    made: dict[str, Path] = {}

    def make(architecture: str) -> Path:
        if architecture not in made:
            made[architecture] = tmp_path_factory.mktemp(architecture)
            _save(architecture, made[architecture])
        return made[architecture]

    return make


@pytest.fixture(scope="session")
def stored_weights() -> type[StoredWeights]:
    """Return the stand-in for mapped weights."""
    return StoredWeights


@pytest.fixture(scope="session")
def rewrite() -> Callable[[Path, Path, Callable[[dict[str, torch.Tensor]], None]], Path]:
    """Return a function that copies a checkpoint, its tensors changed by a function."""

    def copy(source: Path, target: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> Path:
        tensors = load_file(source / "model.safetensors")
        change(tensors)
        save_file(tensors, target / "model.safetensors")
        (target / "config.json").write_bytes((source / "config.json").read_bytes())
        return target

    return copy


@pytest.fixture(scope="session")
def make_setup() -> Callable[..., EngineSetup]:
    """Return a function that builds a setup from a folder and fields of the replica's spec."""

    def make(directory: Path, **spec: Any) -> EngineSetup:
        return EngineSetup(
            spec=ReplicaSpec(
                **{
                    "replica_id": ReplicaId("replica"),
                    "model": ModelId("model"),
                    "reference": Reference("reference"),
                    **spec,
                }
            ),
            directory=directory,
            threads=1,
        )

    return make


def _save(architecture: str, directory: Path) -> None:
    torch.manual_seed(11)
    make_config: Any = CONFIG_MAPPING[architecture]
    make_model: Any = AutoModelForCausalLM.from_config
    config = make_config(
        vocab_size=96,
        max_position_embeddings=64,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
        # Weights as large as these keep random models from repeating one token.
        **{"initializer_range": 0.5, **_SHAPES[architecture]},
    )
    make_model(config, dtype=torch.float32).save_pretrained(directory)
