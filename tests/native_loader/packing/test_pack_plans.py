from __future__ import annotations

import hashlib
import json
import random
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open

from pilotlight.native_loader import (
    CHUNK_BYTES,
    Checkpoint,
    CorruptCheckpoint,
    SliceRefused,
    TooManyPartitions,
    load,
)
from pilotlight.native_loader.formats.dtypes import ITEM_BITS
from pilotlight.native_loader.loading import load_weights
from pilotlight.native_loader.packing.pack import pack
from pilotlight.native_loader.packing.pack_plans import PackPlan, PlanKind
from pilotlight.native_loader.placements.placement import Placement, one_device, tensor_parallel
from pilotlight.native_loader.testing import (
    RawTensor,
    random_tensor,
    write_checkpoint,
)

Tensors = dict[str, RawTensor]
TWO = PackPlan(kind=PlanKind.TENSOR_PARALLEL, n_partitions=2)
FOUR = PackPlan(kind=PlanKind.TENSOR_PARALLEL, n_partitions=4)
LAYERS = PackPlan(kind=PlanKind.LAYERS, n_partitions=2)


@pytest.fixture
def llama(rng: random.Random) -> Tensors:
    """Two layers whose matrices divide by four; row slices of 6 bytes, a replicated scalar."""
    tensors = {"model.embed_tokens.weight": random_tensor(rng, "BF16", 32, 12)}
    for layer in range(2):
        prefix = f"model.layers.{layer}"
        tensors |= {
            f"{prefix}.input_layernorm.weight": random_tensor(rng, "BF16", 12),
            f"{prefix}.self_attn.q_proj.weight": random_tensor(rng, "F8_E4M3", 16, 12),
            f"{prefix}.self_attn.q_proj.weight_scale": random_tensor(rng, "F32"),
            f"{prefix}.self_attn.o_proj.weight": random_tensor(rng, "BF16", 12, 16),
            f"{prefix}.mlp.gate_up_proj.weight": random_tensor(rng, "F32", 16, 12),
            f"{prefix}.mlp.down_proj.weight": random_tensor(rng, "F4", 12, 8),
        }
    tensors["model.norm.weight"] = random_tensor(rng, "BF16", 12)
    tensors["lm_head.weight"] = random_tensor(rng, "BF16", 32, 12)
    return tensors


@pytest.fixture
def source(tmp_path: Path, llama: Tensors) -> Checkpoint:
    directory = write_checkpoint(tmp_path / "source", llama)
    (directory / "config.json").write_text("{}")
    return Checkpoint.open(directory)


def contents(directory: Path) -> dict[str, str]:
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(directory.iterdir())
    }


def bytes_of(checkpoint: Checkpoint, name: str) -> bytes:
    entry = checkpoint.tensors[name]
    data = checkpoint.files[entry.file].path.read_bytes()
    return data[entry.offset : entry.offset + entry.size_bytes]


def cut(tensor: RawTensor, axis: int, n: int, index: int, parts: int = 1) -> bytes:
    bits = np.unpackbits(np.frombuffer(tensor.data, np.uint8), bitorder="little")
    table = bits.reshape((*tensor.shape, ITEM_BITS[tensor.dtype]))
    slices = [np.split(part, n, axis)[index] for part in np.split(table, parts, axis)]
    return np.packbits(np.concatenate(slices, axis).reshape(-1), bitorder="little").tobytes()


def expected(name: str, tensor: RawTensor, n: int, index: int) -> bytes:
    if "norm" in name or not tensor.shape:
        return tensor.data
    if "gate_up" in name:
        return cut(tensor, 0, n, index, parts=2)
    return cut(tensor, 1 if "o_proj" in name or "down_proj" in name else 0, n, index)


@pytest.mark.parametrize(
    ("text", "plan"),
    [
        ("one", PackPlan()),
        ("tensor-parallel=4", FOUR),
        ("layers=2", LAYERS),
    ],
)
def test_plans_have_texts(text: str, plan: PackPlan) -> None:
    assert PackPlan.parse(text) == plan
    assert str(plan) == text


@pytest.mark.parametrize("text", ["", "two", "layers", "layers=0", "layers=-1", "tensor-parallel="])
def test_other_texts_are_no_plans(text: str) -> None:
    with pytest.raises(ValueError, match="is no plan"):
        PackPlan.parse(text)


@pytest.mark.parametrize("plan", [TWO, FOUR], ids=str)
def test_each_partition_holds_its_slices(
    tmp_path: Path, source: Checkpoint, llama: Tensors, plan: PackPlan
) -> None:
    packed = pack(source, tmp_path / "packed", plan=plan)

    assert packed.n_partitions == plan.n_partitions
    assert packed.sliced.keys() == llama.keys()
    for number in range(plan.n_partitions):
        partition = packed.partition(number)
        assert partition.tensors.keys() == llama.keys()
        for name, tensor in llama.items():
            assert bytes_of(partition, name) == expected(name, tensor, plan.n_partitions, number)
        assert partition.files[0].data_offset % 4096 == 0
        assert partition.n_partitions == 1


def test_other_tools_read_every_partition(
    tmp_path: Path, source: Checkpoint, llama: Tensors
) -> None:
    packed = pack(source, tmp_path / "packed", plan=TWO)

    for number, file in enumerate(packed.files):
        with safe_open(file.path, framework="numpy") as opened:
            assert set(opened.keys()) == llama.keys()
            assert (
                opened.metadata()["pilotlight.partition"] == f"{number + 1} of 2, tensor-parallel"
            )
            name = "model.layers.0.mlp.gate_up_proj.weight"
            assert opened.get_tensor(name).shape == (8, 12)
            assert opened.get_tensor(name).tobytes() == expected(name, llama[name], 2, number)
    # Nothing says that the files together are one checkpoint, for to others they are not.
    assert not (tmp_path / "packed" / "model.safetensors.index.json").exists()


def test_every_layout_has_one_content_id(tmp_path: Path, source: Checkpoint) -> None:
    plans = [PackPlan(), TWO, FOUR, LAYERS]

    packed = [pack(source, tmp_path / str(plan), plan=plan) for plan in plans]

    ids = {each.content_id for each in packed} | {each.compute_content_id() for each in packed}
    assert ids == {source.compute_content_id()}
    assert len({each.layout_id for each in packed}) == 4


@pytest.mark.parametrize("plan", [TWO, FOUR, LAYERS], ids=str)
def test_what_was_cut_can_be_packed_whole_again(
    tmp_path: Path, source: Checkpoint, plan: PackPlan
) -> None:
    pack(source, tmp_path / "whole")
    cut_up = pack(source, tmp_path / "cut", plan=plan)

    pack(cut_up, tmp_path / "again")

    assert contents(tmp_path / "again") == contents(tmp_path / "whole")


def test_one_cut_can_be_made_of_another(tmp_path: Path, source: Checkpoint) -> None:
    pack(source, tmp_path / "four", plan=FOUR)
    two = pack(source, tmp_path / "two", plan=TWO)

    pack(two, tmp_path / "again", plan=FOUR)

    assert contents(tmp_path / "again") == contents(tmp_path / "four")


@pytest.mark.parametrize("plan", [TWO, LAYERS], ids=str)
def test_equal_sources_give_equal_bytes(tmp_path: Path, source: Checkpoint, plan: PackPlan) -> None:
    pack(source, tmp_path / "one", plan=plan)
    pack(source, tmp_path / "two", plan=plan)

    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_layers_are_a_checkpoint_to_other_tools(
    tmp_path: Path, source: Checkpoint, llama: Tensors
) -> None:
    packed = pack(source, tmp_path / "packed", plan=LAYERS)

    index = json.loads((tmp_path / "packed" / "model.safetensors.index.json").read_text())
    assert index["weight_map"].keys() == llama.keys()
    assert index["metadata"]["total_size"] == sum(len(each.data) for each in llama.values())
    for name, file in index["weight_map"].items():
        with safe_open(tmp_path / "packed" / file, framework="numpy") as opened:
            assert name in set(opened.keys())
    assert index["weight_map"]["model.layers.1.mlp.down_proj.weight"] == (
        "model-00002-of-00002.safetensors"
    )
    assert {name: bytes_of(packed, name) for name in packed.tensors} == {
        name: tensor.data for name, tensor in llama.items()
    }


def test_a_partition_is_loaded_straight(tmp_path: Path, source: Checkpoint) -> None:
    packed = pack(source, tmp_path / "packed", plan=TWO)

    placement = tensor_parallel(packed, 2)

    # A partition is one file of one chunk, and goes as one range.
    data = [file.size_bytes - file.data_offset for file in packed.files]
    assert [(copy.chunk, copy.partition, copy.size_bytes) for copy in placement.copies] == [
        (0, 0, data[0]),
        (1, 1, data[1]),
    ]


def carry_out(packed: Checkpoint, placement: Placement) -> list[dict[str, bytes]]:
    memories = [bytearray(part.size_bytes) for part in placement.partitions]
    files = [file.path.read_bytes() for file in packed.files]
    for copy in placement.copies:
        chunk = packed.chunks[copy.chunk]
        for row in range(copy.n_rows):
            begin = chunk.offset + copy.from_ + row * copy.from_stride
            to = copy.to + row * copy.to_stride
            data = files[chunk.file][begin : begin + copy.length]
            memories[copy.partition][to : to + copy.length] = data
    return [
        {
            name: bytes(memory[each.offset : each.offset + each.size_bytes])
            for name, each in part.tensors.items()
        }
        for part, memory in zip(placement.partitions, memories, strict=True)
    ]


@pytest.mark.parametrize("stored", [TWO, FOUR], ids=str)
@pytest.mark.parametrize("degree", [1, 2, 4])
def test_what_was_cut_for_some_devices_is_placed_on_others(
    tmp_path: Path, source: Checkpoint, llama: Tensors, stored: PackPlan, degree: int
) -> None:
    packed = pack(source, tmp_path / "packed", plan=stored)

    held = carry_out(packed, tensor_parallel(packed, degree))

    for index in range(degree):
        for name, tensor in llama.items():
            assert held[index][name] == expected(name, tensor, degree, index), name


def test_what_was_cut_is_put_together_on_one_device(
    tmp_path: Path, source: Checkpoint, llama: Tensors
) -> None:
    packed = pack(source, tmp_path / "packed", plan=TWO)

    (held,) = carry_out(packed, one_device(packed))

    assert held == {name: tensor.data for name, tensor in llama.items()}


def test_a_partition_loads_as_a_checkpoint_of_its_own(
    tmp_path: Path, source: Checkpoint, llama: Tensors
) -> None:
    packed = pack(source, tmp_path / "packed", plan=TWO)

    weights, result = load_weights(packed.partition(1))
    by_path = load(packed.files[1].path)

    tensors = weights.tensors()
    weights.close()
    assert result.checksum == "verified"
    assert tensors.keys() == by_path.keys() == llama.keys()
    name = "model.layers.0.self_attn.o_proj.weight"
    assert tensors[name].shape == by_path[name].shape == (12, 8)
    assert tensors[name].view(torch.uint8).numpy().tobytes() == expected(name, llama[name], 2, 1)


def test_slices_are_verified(tmp_path: Path, source: Checkpoint) -> None:
    packed = pack(source, tmp_path / "packed", plan=TWO)

    verified = packed.verify()
    of_one = packed.partition(1).verify()

    assert (verified.n_verified, verified.n_learned) == (2, 0)
    assert verified.content_id == packed.content_id
    assert (of_one.n_verified, of_one.content_id) == (1, "")


def test_aliases_are_declared_where_they_are_used(tmp_path: Path, llama: Tensors) -> None:
    del llama["lm_head.weight"]
    aliases = {"lm_head.weight": "model.embed_tokens.weight"}
    source = Checkpoint.open(write_checkpoint(tmp_path / "source", llama, aliases))

    two = pack(source, tmp_path / "two", plan=TWO)
    layers = pack(source, tmp_path / "layers", plan=LAYERS)

    assert two.aliases == layers.aliases == aliases
    assert two.partition(1).aliases == aliases
    for file in two.files:
        with safe_open(file.path, framework="numpy") as opened:
            assert opened.metadata()["lm_head.weight"] == "model.embed_tokens.weight"


def test_heads_of_the_config_are_not_cut_through(tmp_path: Path, llama: Tensors) -> None:
    directory = write_checkpoint(tmp_path / "source", llama)
    (directory / "config.json").write_text('{"num_attention_heads": 2}')

    with pytest.raises(SliceRefused, match="2 attention heads do not divide by 4 devices"):
        pack(Checkpoint.open(directory), tmp_path / "packed", plan=FOUR)

    assert not (tmp_path / "packed").exists()


def test_a_slice_that_would_begin_within_a_byte_is_refused(
    tmp_path: Path, rng: random.Random
) -> None:
    # Each slice has two whole bytes, of which the second slice's begin in the middle of one.
    tensors = {"a.o_proj.weight": random_tensor(rng, "F4", 4, 2)}
    source = Checkpoint.open(write_checkpoint(tmp_path / "source", tensors))

    with pytest.raises(SliceRefused, match="in F4 would not be of whole bytes"):
        pack(source, tmp_path / "packed", plan=TWO)


def test_too_few_layers_are_refused(tmp_path: Path, source: Checkpoint) -> None:
    with pytest.raises(TooManyPartitions):
        pack(
            source,
            tmp_path / "packed",
            plan=PackPlan(kind=PlanKind.LAYERS, n_partitions=3),
        )


def test_there_is_no_partition_beyond_the_last(tmp_path: Path, source: Checkpoint) -> None:
    packed = pack(source, tmp_path / "packed", plan=TWO)

    assert source.partition(0) is source
    for number in (-1, 2):
        with pytest.raises(ValueError, match=f"has 2 partitions, and no {number}"):
            packed.partition(number)


def old_manifest(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Return a manifest in the form of version 1."""
    old = {key: value for key, value in manifest.items() if key != "plan"}
    old["tensors"] = {
        name: {
            "partition": 0,
            "offset": tensor["parts"][0]["offset"],
            "size_bytes": tensor["parts"][0]["size_bytes"],
            "dtype": tensor["dtype"],
            "shape": tensor["shape"],
            "sha256": tensor["sha256"],
        }
        for name, tensor in manifest["tensors"].items()
    }
    return old | {"version": 1}


def test_a_manifest_of_version_1_is_read(tmp_path: Path, source: Checkpoint) -> None:
    packed = pack(source, tmp_path / "packed")
    file = tmp_path / "packed" / "manifest.json"
    file.write_text(json.dumps(old_manifest(json.loads(file.read_text()))))

    old = Checkpoint.open(tmp_path / "packed")

    assert old == packed
    assert old.verify().content_id == packed.content_id


def change_part(manifest: dict[str, Any], number: int, change: Mapping[str, Any]) -> None:
    part = manifest["tensors"]["model.layers.0.self_attn.o_proj.weight"]["parts"][number]
    for key, value in change.items():
        if value is None:
            del part[key]
        else:
            part[key] = value


@pytest.mark.parametrize(
    "change",
    [
        {"partition": 0},
        {"partition": 7},
        {"offset": 0},
        {"slice": None},
        {"slice": {"dim": 0, "ranges": [[8, 16]]}},
        {"slice": {"dim": 9, "ranges": [[8, 16]]}},
        {"slice": {"dim": 1, "ranges": [[0, 8]]}},
        {"slice": {"dim": 1, "ranges": [[9, 17]]}},
        {"slice": {"dim": 1, "ranges": [[12, 16], [8, 12]]}},
        {"slice": {"dim": 1, "ranges": [[16, 8]]}},
        {"slice": {"dim": 1, "ranges": []}},
    ],
    ids=str,
)
def test_refuses_slices_that_are_none(
    tmp_path: Path, source: Checkpoint, change: Mapping[str, Any]
) -> None:
    pack(source, tmp_path / "packed", plan=TWO)
    file = tmp_path / "packed" / "manifest.json"
    manifest = json.loads(file.read_text())
    change_part(manifest, 1, change)
    file.write_text(json.dumps(manifest))

    with pytest.raises(
        CorruptCheckpoint, match=r"slices of tensor 'model\.layers\.0\.self_attn\.o_"
    ):
        Checkpoint.open(tmp_path / "packed")


def test_refuses_partitions_that_hold_more_than_the_manifest_names(
    tmp_path: Path, source: Checkpoint
) -> None:
    pack(source, tmp_path / "packed", plan=TWO)
    file = tmp_path / "packed" / "manifest.json"
    manifest = json.loads(file.read_text())
    del manifest["tensors"]["lm_head.weight"]
    file.write_text(json.dumps(manifest))

    with pytest.raises(CorruptCheckpoint, match="was not written for the weight files beside it"):
        Checkpoint.open(tmp_path / "packed")


def test_long_rows_and_large_tensors_are_cut_and_joined_in_pieces(
    tmp_path: Path, rng: random.Random
) -> None:
    # Rows longer than a piece of 4 MiB, and a tensor of many pieces with short rows.
    tensors = {
        "a.o_proj.weight": random_tensor(rng, "U8", 2, 10 << 20),
        "b.o_proj.weight": random_tensor(rng, "U8", 300_001, 32),
        "c.q_proj.weight": random_tensor(rng, "U8", 6, 3_000_001),
    }
    source = Checkpoint.open(write_checkpoint(tmp_path / "source", tensors))

    packed = pack(source, tmp_path / "packed", plan=TWO)

    for number in range(2):
        partition = packed.partition(number)
        table = np.frombuffer(tensors["a.o_proj.weight"].data, np.uint8).reshape(2, -1)
        assert bytes_of(partition, "a.o_proj.weight") == np.split(table, 2, 1)[number].tobytes()
        table = np.frombuffer(tensors["b.o_proj.weight"].data, np.uint8).reshape(-1, 32)
        assert bytes_of(partition, "b.o_proj.weight") == np.split(table, 2, 1)[number].tobytes()
    assert packed.compute_content_id() == packed.content_id == source.compute_content_id()


@pytest.mark.property
@given(
    dtype=st.sampled_from(sorted(ITEM_BITS)),
    rows=st.integers(0, 4),
    columns=st.integers(0, 4),
    degree=st.sampled_from([1, 2, 3]),
    module=st.sampled_from(["q_proj", "o_proj", "mlp.gate_up_proj", "norm"]),
)
def test_any_tensor_is_cut_and_joined(
    tmp_path_factory: pytest.TempPathFactory,
    dtype: str,
    rows: int,
    columns: int,
    degree: int,
    module: str,
) -> None:
    shape = (rows * degree * 2, columns * degree * 8)
    tensors = {
        f"x.{module}.weight": random_tensor(
            random.Random(1), dtype, *(shape[:1] if module == "norm" else shape)
        )
        if module != "norm" or (rows * degree * 2 * ITEM_BITS[dtype]) % 8 == 0
        else random_tensor(random.Random(1), dtype, 8),
        "mask": random_tensor(random.Random(2), "BOOL", 3),
    }
    directory = tmp_path_factory.mktemp("any")
    source = Checkpoint.open(write_checkpoint(directory / "source", tensors))

    packed = pack(
        source,
        directory / "packed",
        plan=PackPlan(kind=PlanKind.TENSOR_PARALLEL, n_partitions=degree),
    )

    for number in range(degree):
        partition = packed.partition(number)
        tensor = tensors[f"x.{module}.weight"]
        got = bytes_of(partition, f"x.{module}.weight")
        assert got == expected(f"x.{module}.weight", tensor, degree, number)
    assert packed.verify().content_id == source.compute_content_id()


_MEASURE = """
import re, sys
from pilotlight.native_loader import Checkpoint
from pilotlight.native_loader.packing.pack import pack
from pilotlight.native_loader.packing.pack_plans import PackPlan
pack(Checkpoint.open(sys.argv[1]), sys.argv[2], plan=PackPlan.parse(sys.argv[3]))
print(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1])
"""


def write_zeros(directory: Path, tensor_bytes: int) -> None:
    """Write a checkpoint of two layers, each a matrix by columns and one by rows, of zeros."""
    shape = [tensor_bytes // 1024, 1024]
    names = [
        f"model.layers.{i}.mlp.{kind}_proj.weight" for i in range(2) for kind in ("up", "down")
    ]
    header = {
        name: {
            "dtype": "U8",
            "shape": shape,
            "data_offsets": [number * tensor_bytes, (number + 1) * tensor_bytes],
        }
        for number, name in enumerate(names)
    }
    text = json.dumps(header).encode()
    directory.mkdir()
    with (directory / "model.safetensors").open("wb") as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        stream.truncate(8 + len(text) + len(names) * tensor_bytes)


@pytest.mark.integration
@pytest.mark.parametrize("plan", ["one", "tensor-parallel=2", "layers=2"])
def test_memory_does_not_grow_with_the_checkpoint(tmp_path: Path, plan: str) -> None:
    peak_kib: list[int] = []
    for factor in (1, 4):
        write_zeros(tmp_path / f"source-{factor}", factor * CHUNK_BYTES)
        done = subprocess.run(
            [
                *(sys.executable, "-c", _MEASURE),
                *(tmp_path / f"source-{factor}", tmp_path / f"packed-{factor}", plan),
            ],
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
        peak_kib.append(int(done.stdout))

    # 64 MiB and 256 MiB were packed.
    assert peak_kib[1] - peak_kib[0] < 8 << 10
