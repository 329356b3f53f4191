from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import deserialize, safe_open

from pilotlight.native_loader import Checkpoint, load
from pilotlight.native_loader.formats.dtypes import ITEM_BITS
from pilotlight.native_loader.formats.model_config import says_tied, tied_aliases
from pilotlight.native_loader.packing.pack import pack
from pilotlight.native_loader.packing.pack_plans import PackPlan
from pilotlight.native_loader.packing.source_kinds import open_source
from pilotlight.native_loader.placements.placement import one_device
from pilotlight.native_loader.testing import RawTensor, random_tensor, write_checkpoint

Tensors = dict[str, RawTensor]


@pytest.fixture
def every(rng: random.Random) -> Tensors:
    """Return a matrix of every dtype, a scalar and an empty tensor of those that can be."""
    tensors: Tensors = {}
    for dtype, bits in ITEM_BITS.items():
        tensors[f"model.layers.0.{dtype}"] = random_tensor(rng, dtype, 4, 8)
        tensors[f"model.layers.1.{dtype}.odd"] = random_tensor(rng, dtype, 3, 8)
        tensors[f"{dtype}.empty"] = random_tensor(rng, dtype, 0, 8)
        if bits >= 8:
            tensors[f"{dtype}.scalar"] = random_tensor(rng, dtype)
    return tensors


@pytest.mark.parametrize("plan", ["one", "layers=2", "tensor-parallel=2"])
def test_every_dtype_is_packed_and_read_by_safetensors(
    tmp_path: Path, every: Tensors, plan: str
) -> None:
    if plan.startswith("tensor"):
        every = {f"{name}.q_proj.weight": each for name, each in every.items() if "odd" not in name}
        every = {name: each for name, each in every.items() if each.shape}
    source = Checkpoint.open(write_checkpoint(tmp_path / "source", every))

    packed = pack(source, tmp_path / "packed", plan=PackPlan.parse(plan))

    held: dict[str, list[bytes]] = {}
    for file in packed.files:
        parsed: Any = deserialize
        for name, tensor in parsed(file.path.read_bytes()):
            assert tensor["dtype"] == every[name].dtype
            held.setdefault(name, []).append(bytes(tensor["data"]))
    # Slices of rows lie one after another in the whole.
    assert {name: b"".join(parts) for name, parts in held.items()} == {
        name: tensor.data for name, tensor in every.items()
    }
    assert packed.verify().content_id == source.compute_content_id()


def test_every_dtype_is_packed_and_loaded(tmp_path: Path, every: Tensors) -> None:
    source = Checkpoint.open(write_checkpoint(tmp_path / "source", every))

    tensors = load(pack(source, tmp_path / "packed").path)

    assert {
        name: bytes(tensor.reshape(-1).view(torch.uint8).tolist()) if tensor.numel() else b""
        for name, tensor in tensors.items()
    } == {name: tensor.data for name, tensor in every.items()}


@pytest.mark.parametrize("plan", ["layers=2", "tensor-parallel=2"])
def test_what_is_in_partitions_loads_as_a_whole(
    tmp_path: Path, rng: random.Random, plan: str
) -> None:
    tensors = {
        f"model.layers.{layer}.mlp.{kind}_proj.weight": random_tensor(rng, "F32", 8, 16)
        for layer in range(2)
        for kind in ("up", "down")
    }
    source = Checkpoint.open(write_checkpoint(tmp_path / "source", tensors))

    packed = pack(source, tmp_path / "packed", plan=PackPlan.parse(plan))

    loaded = load(packed.path)
    assert {name: tensor.numpy().tobytes() for name, tensor in loaded.items()} == {
        name: tensor.data for name, tensor in tensors.items()
    }


def adapter(directory: Path, rng: random.Random) -> Path:
    directory.mkdir()
    prefix = "base_model.model.model.layers.0.self_attn.q_proj"
    tensors = {
        f"{prefix}.lora_A.weight": random_tensor(rng, "F32", 4, 16),
        f"{prefix}.lora_B.weight": random_tensor(rng, "F32", 16, 4),
    }
    write_checkpoint(directory, tensors)
    (directory / "model.safetensors").rename(directory / "adapter_model.safetensors")
    (directory / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 4}')
    return directory


def test_adapters_load_and_stay_adapters_when_packed(tmp_path: Path, rng: random.Random) -> None:
    source = adapter(tmp_path / "adapter", rng)
    (source / "README.md").write_text("nobody needs this to load it")

    packed = pack(open_source(source), tmp_path / "packed")

    assert sorted(path.name for path in packed.path.iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
        "manifest.json",
    ]
    expected, loaded = load(source), load(packed.path)
    assert loaded.keys() == expected.keys()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in expected.items())
    with safe_open(packed.path / "adapter_model.safetensors", framework="pt") as opened:
        assert set(opened.keys()) == expected.keys()


@pytest.mark.integration
def test_pickled_adapters_become_adapters_of_safetensors(
    tmp_path: Path, rng: random.Random
) -> None:
    source = adapter(tmp_path / "adapter", rng)
    expected = load(source)
    (source / "adapter_model.safetensors").unlink()
    torch.save(expected, source / "adapter_model.bin")

    packed = pack(open_source(source), tmp_path / "packed")

    assert packed.execution_files == ("adapter_config.json",)
    assert packed.files[0].path.name == "adapter_model.safetensors"
    loaded = load(packed.path)
    assert all(torch.equal(loaded[name], tensor) for name, tensor in expected.items())


def tied(directory: Path, rng: random.Random, config: object) -> Path:
    tensors = {
        "model.embed_tokens.weight": random_tensor(rng, "F32", 8, 4),
        "model.layers.0.mlp.up_proj.weight": random_tensor(rng, "F32", 8, 4),
    }
    write_checkpoint(directory, tensors)
    (directory / "config.json").write_text(json.dumps(config))
    return directory


def test_a_config_that_ties_declares_the_head(tmp_path: Path, rng: random.Random) -> None:
    directory = tied(tmp_path / "source", rng, {"tie_word_embeddings": True})

    tensors = load(directory)
    packed = pack(open_source(directory), tmp_path / "packed")

    assert tensors["lm_head.weight"] is tensors["model.embed_tokens.weight"]
    assert packed.aliases == {"lm_head.weight": "model.embed_tokens.weight"}
    with safe_open(packed.files[0].path, framework="pt") as opened:
        assert opened.metadata()["lm_head.weight"] == "model.embed_tokens.weight"
    # Once packed, the header says it.
    (packed.path / "config.json").write_text("{}")
    assert Checkpoint.open(packed.path).aliases == packed.aliases


@pytest.mark.parametrize(
    ("config", "stated"),
    [
        ({"tie_word_embeddings": True}, True),
        ({"tie_word_embeddings": False}, False),
        ({"text_config": {"tie_word_embeddings": True}}, True),
        ({"tie_word_embeddings": False, "text_config": {"tie_word_embeddings": True}}, False),
        ({"tie_word_embeddings": "yes"}, None),
        ({"text_config": 3}, None),
        ({}, None),
    ],
)
def test_a_config_may_say_whether_it_ties(config: dict[str, object], stated: bool | None) -> None:
    assert says_tied(config) is stated


@pytest.mark.parametrize(
    ("names", "aliases"),
    [
        (["wte.weight", "wpe.weight"], {"lm_head.weight": "wte.weight"}),
        (["transformer.wte.weight"], {"lm_head.weight": "transformer.wte.weight"}),
        (["model.embed_tokens.weight", "lm_head.weight"], {}),
        (["encoder.embed_tokens.weight", "decoder.embed_tokens.weight"], {}),
        (["something.weight"], {}),
        ([], {}),
    ],
    ids=str,
)
def test_only_a_head_that_can_be_no_other_is_declared(
    names: list[str], aliases: dict[str, str]
) -> None:
    assert tied_aliases({"tie_word_embeddings": True}, names) == aliases


@pytest.mark.parametrize("config", ["", "[]", "{", '{"tie_word_embeddings": 1}', "\x00"])
def test_a_config_that_makes_no_sense_does_not_keep_weights_from_loading(
    tmp_path: Path, rng: random.Random, config: str
) -> None:
    directory = tied(tmp_path / "source", rng, {})
    (directory / "config.json").write_text(config)

    assert "lm_head.weight" not in load(directory)


def test_a_packed_checkpoint_of_real_shapes_is_about_one_copy_for_each_chunk(
    tmp_path: Path,
) -> None:
    """A layer of Llama 3 8B, with sizes only."""
    sizes = {
        "self_attn.q_proj.weight": (4096, 4096),
        "self_attn.k_proj.weight": (1024, 4096),
        "mlp.up_proj.weight": (14336, 4096),
        "input_layernorm.weight": (4096,),
    }
    begin = 0
    header: dict[str, object] = {}
    for layer in range(2):
        for name, shape in sizes.items():
            size = 2 * shape[0] * (shape[1] if len(shape) > 1 else 1)
            header[f"model.layers.{layer}.{name}"] = {
                "dtype": "BF16",
                "shape": shape,
                "data_offsets": [begin, begin + size],
            }
            begin += size
    text = json.dumps(header).encode()
    with (tmp_path / "model.safetensors").open("wb") as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        stream.truncate(8 + len(text) + begin)
    checkpoint = Checkpoint.open(tmp_path)

    placement = one_device(checkpoint)

    # Sizes are multiples of 256, so that nothing breaks a run, packed or not.
    assert len(placement.copies) == checkpoint.n_chunks
