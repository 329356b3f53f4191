"""What the checkpoints of random weights consist of; writing them is `making`'s."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, ClassVar

_TRADE = "1"
"""Grows when the same recipe makes something else, so that kept checkpoints are made anew."""

ITEM_BYTES = 2
"""Of a weight: bfloat16, or float16 in adapters."""


class Layout(StrEnum):
    """How the same tensors lie on the disk."""

    SINGLE = "single"
    """One safetensors file."""
    SHARDED = "sharded"
    """Several of them, with an index."""
    PACKED = "packed"
    """As `pilotlight pack` writes them."""
    PICKLED = "bin"
    """As torch.save writes them."""
    TENSORIZED = "tensors"
    """As tensorizer writes them."""


_KEY_HEADS = 8
"""Of each layer, so that it can be cut for as many devices."""
_QUERIES_PER_KEY = 4

SAFETENSORS_LAYOUTS = (Layout.SINGLE, Layout.SHARDED, Layout.PACKED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Llama:
    """A Llama-like checkpoint of random bfloat16 weights."""

    name: str
    hidden: int
    inner: int
    layers: int
    vocabulary: int
    n_shards: int

    dtype: ClassVar[str] = "BF16"

    @property
    def tensors(self) -> dict[str, tuple[int, ...]]:
        """Return the shapes by name, in the order of execution."""
        hidden, inner = self.hidden, self.inner
        shapes: dict[str, tuple[int, ...]] = {
            "model.embed_tokens.weight": (self.vocabulary, hidden)
        }
        for layer in range(self.layers):
            before = f"model.layers.{layer}."
            shapes |= {
                before + "input_layernorm.weight": (hidden,),
                before + "self_attn.q_proj.weight": (hidden, hidden),
                before + "self_attn.k_proj.weight": (hidden // _QUERIES_PER_KEY, hidden),
                before + "self_attn.v_proj.weight": (hidden // _QUERIES_PER_KEY, hidden),
                before + "self_attn.o_proj.weight": (hidden, hidden),
                before + "mlp.gate_proj.weight": (inner, hidden),
                before + "mlp.up_proj.weight": (inner, hidden),
                before + "mlp.down_proj.weight": (hidden, inner),
                before + "post_attention_layernorm.weight": (hidden,),
            }
        return shapes | {
            "model.norm.weight": (hidden,),
            "lm_head.weight": (self.vocabulary, hidden),
        }

    @property
    def config(self) -> dict[str, Any]:
        """Return what transformers builds the model from."""
        heads = _KEY_HEADS * _QUERIES_PER_KEY
        return {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "hidden_size": self.hidden,
            "intermediate_size": self.inner,
            "num_hidden_layers": self.layers,
            "num_attention_heads": heads,
            "num_key_value_heads": _KEY_HEADS,
            "head_dim": self.hidden // heads,
            "vocab_size": self.vocabulary,
            "dtype": "bfloat16",
            "tie_word_embeddings": False,
        }

    @property
    def size_bytes(self) -> int:
        """Return the tensors' size."""
        return ITEM_BYTES * sum(map(math.prod, self.tensors.values()))

    def folder(self, layout: Layout) -> str:
        """Return the name of its folder in one layout."""
        return _folder(self.name, layout)

    def shards(self, layout: Layout) -> list[list[str]]:
        """Return the tensors of each of its safetensors files, nearly equal in bytes."""
        names = list(self.tensors)
        if layout is not Layout.SHARDED:
            return [names]
        shards: list[list[str]] = [[]]
        done_bytes = 0
        for name in names:
            if done_bytes * self.n_shards >= self.size_bytes * len(shards):
                shards.append([])
            shards[-1].append(name)
            done_bytes += ITEM_BYTES * math.prod(self.tensors[name])
        return shards


@dataclass(frozen=True, slots=True, kw_only=True)
class Adapters:
    """Many LoRA adapters of one model, of random float16 weights."""

    name: str
    count: int
    layers: int
    hidden: int
    rank: int

    dtype: ClassVar[str] = "F16"

    @property
    def tensors(self) -> dict[str, tuple[int, ...]]:
        """Return the shapes of one adapter by name."""
        shapes: dict[str, tuple[int, ...]] = {}
        for layer in range(self.layers):
            for projection in "qkvo":
                before = f"base_model.model.model.layers.{layer}.self_attn.{projection}_proj."
                shapes[before + "lora_A.weight"] = (self.rank, self.hidden)
                shapes[before + "lora_B.weight"] = (self.hidden, self.rank)
        return shapes

    @property
    def config(self) -> dict[str, Any]:
        """Return what PEFT wants beside the weights."""
        return {
            "peft_type": "LORA",
            "r": self.rank,
            "lora_alpha": 2 * self.rank,
            "target_modules": [f"{projection}_proj" for projection in "qkvo"],
        }

    @property
    def size_bytes(self) -> int:
        """Return the size of all adapters' tensors."""
        return self.count * ITEM_BYTES * sum(map(math.prod, self.tensors.values()))

    @property
    def numbers(self) -> list[str]:
        """Return the names of the adapters' folders."""
        return [f"{number:03d}" for number in range(self.count)]

    def folder(self, layout: Layout) -> str:
        """Return the name of the folder of all in one layout."""
        return _folder(self.name, layout)


def _folder(name: str, layout: Layout) -> str:
    return name if layout is Layout.SINGLE else f"{name}-{layout}"


Recipe = Llama | Adapters

LARGE = Llama(name="llama-2.6gb", hidden=2048, inner=8192, layers=20, vocabulary=24_000, n_shards=4)
SMALL = Llama(name="llama-250mb", hidden=1024, inner=2816, layers=5, vocabulary=32_768, n_shards=4)
SHORT = Llama(name="llama-40mb", hidden=512, inner=1408, layers=2, vocabulary=16_000, n_shards=2)
TINY = Llama(name="llama-tiny", hidden=512, inner=256, layers=1, vocabulary=256, n_shards=2)
"""What a loader loads before the clock starts, so that all it does only once is done."""

ADAPTERS = Adapters(name="adapters-10mb", count=100, layers=32, hidden=2560, rank=8)
SHORT_ADAPTERS = Adapters(name="adapters-1mb", count=8, layers=16, hidden=512, rank=8)


EVERY: Sequence[Recipe] = (LARGE, SMALL, SHORT, TINY, ADAPTERS, SHORT_ADAPTERS)


def recipe_of(name: str) -> Recipe:
    """Return the recipe of that name."""
    return next(recipe for recipe in EVERY if recipe.name == name)


def stamp_of(recipe: Recipe, layout: Layout) -> str:
    """Return what changes with anything that is made."""
    return hashlib.sha256(f"{_TRADE} {layout} {recipe!r}".encode()).hexdigest()


def mark_of(recipe: Recipe, layout: Layout, directory: Path) -> Path:
    """Return the file that says how a folder beside it was made."""
    return directory / f".{recipe.folder(layout)}.recipe"


def is_made(recipe: Recipe, layout: Layout, directory: Path) -> bool:
    """Whether its folder lies below a directory, as the recipe makes it."""
    mark = mark_of(recipe, layout, directory)
    if not mark.exists() or not (directory / recipe.folder(layout)).is_dir():
        return False
    return mark.read_text().splitlines()[:1] == [stamp_of(recipe, layout)]


def missing_bytes(wanted: Sequence[tuple[Recipe, Layout]], directory: Path) -> int:
    """Return how much disk those take that are not made yet."""
    return sum(
        recipe.size_bytes for recipe, layout in wanted if not is_made(recipe, layout, directory)
    )


def header_of(dtype: str, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """Return the header of a safetensors file that holds these tensors one after another."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, shape in shapes.items():
        end = offset + ITEM_BYTES * math.prod(shape)
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [offset, end]}
        offset = end
    return header
