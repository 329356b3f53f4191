"""What tests of the node share."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import pytest

from pilotlight.native_loader.testing import random_tensor, write_checkpoint

MakeCheckpoint = Callable[..., Path]


@pytest.fixture
def direct_reads(tmp_path: Path, absent: Callable[[str, str], NoReturn]) -> None:
    """Skip where the file system of `tmp_path` refuses direct reads."""
    file = tmp_path / "direct"
    file.touch()
    try:
        os.close(os.open(file, os.O_RDONLY | os.O_DIRECT))
    except OSError:
        absent("direct reads", f"the file system of {tmp_path} refuses them")


@pytest.fixture
def make_small_checkpoint() -> MakeCheckpoint:
    """Return what writes a checkpoint of a few bytes and returns its directory."""

    def make(directory: Path, *, config: object = None, seed: int = 0) -> Path:
        rng = random.Random(seed)
        write_checkpoint(directory, {"weight": random_tensor(rng, "BF16", 8, 4)})
        if config is not None:
            (directory / "config.json").write_text(json.dumps(config))
        return directory

    return make


@pytest.fixture
def make_tiny_llama() -> Callable[..., list[int]]:
    """Return what writes a Llama and returns what `generate` continues a prompt with."""

    def make(directory: Path, *, prompt: Sequence[int], n_tokens: int) -> list[int]:
        import torch
        from transformers import AutoModelForCausalLM
        from transformers.models.auto.configuration_auto import CONFIG_MAPPING

        torch.manual_seed(5)
        make_config: Any = CONFIG_MAPPING["llama"]
        config = make_config(
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            vocab_size=512,
            max_position_embeddings=128,
            initializer_range=0.3,
        )
        make_model: Any = AutoModelForCausalLM
        model = make_model.from_config(config).eval()
        model.save_pretrained(directory)
        ids = torch.tensor([list(prompt)])
        options = {"max_new_tokens": n_tokens, "do_sample": False, "eos_token_id": None}
        output = model.generate(ids, attention_mask=torch.ones_like(ids), **options)
        return [int(token) for token in output[0][len(prompt) :]]

    return make
