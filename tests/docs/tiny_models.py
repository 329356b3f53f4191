"""Checkpoints that answer like those of the demo and weigh next to nothing, made without torch."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from pilotlight.native_loader.testing import RawTensor, write_checkpoint

HIDDEN = 32
INTERMEDIATE = 64
HEADS = 4
LAYERS = 2
CONTEXT_TOKENS = 2048
END = "<|end|>"
CHAT_TEMPLATE = "{% for message in messages %}{{ message['content'] }}" + END + "{% endfor %}"


def write_tiny_llama(directory: Path, *, seed: int) -> None:
    """Write a Llama of two small layers, with random weights and a tokenizer of bytes."""
    vocabulary = _write_tokenizer(directory)
    rng = np.random.default_rng(seed)
    tensors = {
        name: RawTensor(
            dtype="F32",
            shape=shape,
            data=rng.normal(0.0, 0.3, shape).astype("<f4").tobytes(),
        )
        for name, shape in _shapes(vocabulary)
    }
    write_checkpoint(directory, tensors, {"format": "pt"})
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": vocabulary,
        "hidden_size": HIDDEN,
        "intermediate_size": INTERMEDIATE,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": HEADS,
        "max_position_embeddings": CONTEXT_TOKENS,
        "eos_token_id": vocabulary - 1,
        "dtype": "float32",
    }
    (directory / "config.json").write_text(json.dumps(config))


def _shapes(vocabulary: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield "model.embed_tokens.weight", (vocabulary, HIDDEN)
    for layer in range(LAYERS):
        prefix = f"model.layers.{layer}"
        yield f"{prefix}.input_layernorm.weight", (HIDDEN,)
        yield f"{prefix}.post_attention_layernorm.weight", (HIDDEN,)
        for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
            yield f"{prefix}.self_attn.{name}.weight", (HIDDEN, HIDDEN)
        for name in ("gate_proj", "up_proj"):
            yield f"{prefix}.mlp.{name}.weight", (INTERMEDIATE, HIDDEN)
        yield f"{prefix}.mlp.down_proj.weight", (HIDDEN, INTERMEDIATE)
    yield "model.norm.weight", (HIDDEN,)
    yield "lm_head.weight", (vocabulary, HIDDEN)


def _write_tokenizer(directory: Path) -> int:
    directory.mkdir(parents=True)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: id_ for id_, letter in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([END])
    tokenizer.save(str(directory / "tokenizer.json"))
    (directory / "tokenizer_config.json").write_text(
        json.dumps({"eos_token": END, "chat_template": CHAT_TEMPLATE})
    )
    return tokenizer.get_vocab_size()
