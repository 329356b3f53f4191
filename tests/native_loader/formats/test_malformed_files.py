from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import Any

import msgspec
import pytest
import safetensors
from hypothesis import given
from hypothesis import strategies as st
from tests.native_loader.malformed import changed

from pilotlight.native_loader import (
    AttachedWeights,
    Checkpoint,
    ChecksumLedger,
    ChunkPool,
    Loader,
    LoaderError,
    WeightLayout,
)
from pilotlight.native_loader.disks.disk_settings import KnownDisks
from pilotlight.native_loader.formats.header import LENGTH_BYTES
from pilotlight.native_loader.packing.pack import pack
from pilotlight.native_loader.packing.pack_plans import PackPlan, PlanKind
from pilotlight.native_loader.packing.source_kinds import open_source
from pilotlight.native_loader.testing import (
    random_tensor,
    write_checkpoint,
    write_sharded_checkpoint,
)

NAME = "model.safetensors"
Directories = pytest.TempPathFactory

RNG = random.Random(7)
TENSORS = {
    "model.embed_tokens.weight": random_tensor(RNG, "F32", 16, 8),
    "model.layers.0.self_attn.q_proj.weight": random_tensor(RNG, "BF16", 8, 8),
    "model.layers.1.self_attn.o_proj.weight": random_tensor(RNG, "BF16", 8, 8),
    "model.norm.weight": random_tensor(RNG, "F16", 8),
    "scalar": random_tensor(RNG, "F64"),
    "packed": random_tensor(RNG, "F4", 2, 3),
    "empty": random_tensor(RNG, "I64", 0, 5),
}
HEADERS: list[dict[str, Any]] = [
    {},
    {"__metadata__": {"format": "pt"}},
    {
        "__metadata__": {"format": "pt", "tied": "a"},
        "a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},
        "b.weight": {"dtype": "BF16", "shape": [2, 2], "data_offsets": [8, 16]},
        "c": {"dtype": "F4", "shape": [3, 2], "data_offsets": [16, 19]},
        "d": {"dtype": "BOOL", "shape": [], "data_offsets": [19, 20]},
        "e": {"dtype": "I64", "shape": [0, 3], "data_offsets": [20, 20]},
    },
]


def contents(checkpoint: Checkpoint) -> dict[str, tuple[str, list[int], bytes]]:
    """Read every tensor, from where the checkpoint says that it lies."""
    found: dict[str, tuple[str, list[int], bytes]] = {}
    for name, entry in checkpoint.tensors.items():
        data = checkpoint.files[entry.file].path.read_bytes()
        assert 0 <= entry.offset <= entry.offset + entry.size_bytes <= len(data)
        found[name] = (
            entry.dtype,
            list(entry.shape),
            data[entry.offset : entry.offset + entry.size_bytes],
        )
    return found


@pytest.mark.property
@given(st.sampled_from(HEADERS).flatmap(changed), st.sampled_from([20, 20, 20, 0, 19, 21]))
def test_a_header_is_refused_or_read_as_safetensors_reads_it(
    tmp_path_factory: Directories, header: bytes, n_data_bytes: int
) -> None:
    file = tmp_path_factory.getbasetemp() / "changed.safetensors"
    data = len(header).to_bytes(LENGTH_BYTES, "little") + header + bytes(n_data_bytes)
    file.write_bytes(data)
    try:
        checkpoint = Checkpoint.open(file)
    except LoaderError:
        return

    try:
        read = safetensors.deserialize(data)  # type: ignore[no-untyped-call] # it has no types
    except safetensors.SafetensorError:
        # In JSON there is a negative zero, which is 0.
        assert b"-0" in header
        return
    theirs = {
        name: (str(tensor["dtype"]), list(tensor["shape"]), bytes(tensor["data"]))
        for name, tensor in read
    }
    assert contents(checkpoint) == theirs


SHARDS = {
    "1.safetensors": {"a": TENSORS["scalar"], "b": TENSORS["empty"]},
    "2.safetensors": {"c": TENSORS["packed"]},
}
INDEX = {
    "metadata": {"total_size": 19},
    "weight_map": {"a": "1.safetensors", "b": "1.safetensors", "c": "2.safetensors"},
}


@pytest.fixture(scope="module")
def sharded(tmp_path_factory: Directories) -> Path:
    return write_sharded_checkpoint(tmp_path_factory.mktemp("sharded"), SHARDS)


@pytest.mark.property
@given(changed(INDEX))
def test_an_index_is_refused_or_names_files_beside_it(sharded: Path, index: bytes) -> None:
    (sharded / f"{NAME}.index.json").write_bytes(index)
    try:
        checkpoint = Checkpoint.open(sharded)
    except LoaderError:
        return

    stored = {name: tensor.data for shard in SHARDS.values() for name, tensor in shard.items()}
    assert all(file.path.parent == sharded for file in checkpoint.files)
    assert all(each[2] == stored[name] for name, each in contents(checkpoint).items())


CONFIG = {
    "model_type": "llama",
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
}
PLANS = [
    PackPlan(),
    PackPlan(kind=PlanKind.TENSOR_PARALLEL, n_partitions=2),
    PackPlan(kind=PlanKind.LAYERS, n_partitions=2),
]


@pytest.fixture(scope="module", params=PLANS, ids=lambda plan: str(plan.kind))
def packed(request: pytest.FixtureRequest, tmp_path_factory: Directories) -> Path:
    directory = tmp_path_factory.mktemp("packed")
    # What no rule slices has one dimension.
    flat = {"packed": random_tensor(RNG, "F4", 6), "empty": random_tensor(RNG, "I64", 0)}
    source = write_checkpoint(directory / "source", TENSORS | flat)
    (source / "config.json").write_text(json.dumps(CONFIG))
    return pack(Checkpoint.open(source), directory / "packed", plan=request.param).path


@pytest.mark.property
@given(data=st.data())
def test_a_manifest_is_refused_or_says_what_is_beside_it(
    packed: Path, tmp_path_factory: Directories, data: st.DataObject
) -> None:
    original = json.loads((packed / "manifest.json").read_text())
    place = tmp_path_factory.getbasetemp() / "manifest-of-nobody"
    if not place.exists() or {each.name for each in place.iterdir()} != {
        each.name for each in packed.iterdir()
    }:
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(packed, place)
    (place / "manifest.json").write_bytes(data.draw(changed(original)))
    try:
        checkpoint = Checkpoint.open(place)
        contents(checkpoint)
        checkpoint.verify()
    except LoaderError:
        return

    assert {file.path.parent for file in checkpoint.files} == {place}
    # A manifest that is not one of ours any more leaves a checkpoint of safetensors.
    assert checkpoint.format == "safetensors" or checkpoint.content_id == original["content_id"]


SERVERLESSLLM_INDEX = {
    "a": [0, 32, [2, 4], [4, 1], "torch.float32"],
    "b": [32, 16, [4, 2], [1, 4], "torch.bfloat16"],
    "tied": [0, 32, [2, 4], [4, 1], "torch.float32"],
    "empty": [48, 0, [0, 3], [3, 1], "torch.float16"],
}


@pytest.mark.property
@given(changed(SERVERLESSLLM_INDEX), st.sampled_from([(48,), (40, 8), (47,), (0, 48), ()]))
def test_a_serverlessllm_index_is_refused_or_packed(
    tmp_path_factory: Directories, index: bytes, sizes: tuple[int, ...]
) -> None:
    place = tmp_path_factory.mktemp("serverlessllm")
    (place / "tensor_index.json").write_bytes(index)
    for number, size in enumerate(sizes):
        (place / f"tensor.data_{number}").write_bytes(RNG.randbytes(size))
    try:
        checkpoint = pack(open_source(place), place / "packed")
    except LoaderError:
        return

    assert checkpoint.verify().n_learned == 0


@pytest.fixture(scope="module")
def learned(tmp_path_factory: Directories) -> tuple[Checkpoint, Path, Any]:
    """A checkpoint, the ledger's entry about its file, and what the entry says."""
    directory = tmp_path_factory.mktemp("learned")
    checkpoint = Checkpoint.open(write_checkpoint(directory / "source", TENSORS))
    checkpoint.verify(ChecksumLedger(directory / "ledger"))
    (entry,) = (directory / "ledger").iterdir()
    return checkpoint, entry, json.loads(entry.read_text())


@pytest.mark.property
@given(data=st.data())
def test_a_ledger_entry_counts_or_does_not(
    learned: tuple[Checkpoint, Path, Any], data: st.DataObject
) -> None:
    checkpoint, entry, original = learned
    entry.write_bytes(data.draw(changed(original)))

    found = ChecksumLedger(entry.parent).find(checkpoint.files[0])

    assert found is None or [len(found), *map(type, found)] == [1, int]


@pytest.mark.property
@given(data=st.data())
def test_what_is_known_of_a_disk_counts_or_does_not(
    learned: tuple[Checkpoint, Path, Any], tmp_path_factory: Directories, data: st.DataObject
) -> None:
    (file,) = learned[0].files
    entry = {
        "version": 1,
        "device": file.device,
        "fsid": 1,
        "source": "/dev/vda",
        "kernel": "6.1",
        "measured_at": 1.5e9,
        "n_readers": 4,
        "depth": 1,
        "block_bytes": 1 << 20,
        "bytes_per_second": 2e9,
    }
    directory = tmp_path_factory.getbasetemp() / "disks"
    directory.mkdir(exist_ok=True)
    (directory / f"{file.device:x}.json").write_bytes(data.draw(changed(entry)))

    settings = KnownDisks(directory).settings_for(file)

    assert 1 <= settings.n_readers <= 64
    assert settings.block_bytes % 4096 == 0


@pytest.fixture(scope="module")
def attachable(tmp_path_factory: Directories) -> tuple[ChunkPool, Any]:
    place = write_checkpoint(tmp_path_factory.mktemp("attachable"), TENSORS)
    checkpoint = Checkpoint.open(place)
    pool = ChunkPool(checkpoint.n_chunks * 16 << 20)
    chunks = pool.allocate(checkpoint.n_chunks)
    with Loader(pool) as loader:
        loader.submit(checkpoint, chunks).result()
    layout = WeightLayout.of(checkpoint, chunks, pool.chunk_bytes)
    return pool, json.loads(msgspec.json.encode(layout))


@pytest.mark.property
@given(data=st.data())
def test_a_layout_is_refused_or_attached(
    attachable: tuple[ChunkPool, Any], data: st.DataObject
) -> None:
    pool, original = attachable
    try:
        layout = msgspec.json.decode(data.draw(changed(original)), type=WeightLayout)
        weights = AttachedWeights(pool.fd, layout)
    except (LoaderError, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return

    tensors = weights.tensors()
    weights.close()
    assert tensors.keys() == layout.tensors.keys()
    for tensor in tensors.values():
        tensor.clone()
