from __future__ import annotations

import gc
import hashlib
import json
import os
import random
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
import torch
from safetensors.torch import load_file, save_file

from pilotlight.native_loader import (
    CHUNK_BYTES,
    AttachedWeights,
    Checkpoint,
    ChunkPool,
    FileLayout,
    LayoutMismatch,
    Loader,
    MemoryRefused,
    PoolClosed,
    TensorEntry,
    WeightLayout,
    WeightsClosed,
)
from pilotlight.native_loader.formats.dtypes import ITEM_BITS
from pilotlight.native_loader.formats.parts import Place
from pilotlight.native_loader.testing import (
    RawTensor,
    random_tensor,
    write_checkpoint,
    write_sharded_checkpoint,
)

DEADLINE_SECONDS = 30


def loaded(pool: ChunkPool, loader: Loader, path: Path) -> WeightLayout:
    checkpoint = Checkpoint.open(path)
    chunks = pool.allocate(checkpoint.n_chunks)
    loader.submit(checkpoint, chunks).result(DEADLINE_SECONDS)
    return WeightLayout.of(checkpoint, chunks, pool.chunk_bytes)


def raw_bytes(tensor: torch.Tensor) -> bytes:
    return tensor.reshape(-1).view(torch.uint8).numpy().tobytes()


def test_equals_what_safetensors_loads(tmp_path: Path, pool: ChunkPool, loader: Loader) -> None:
    generator = torch.Generator().manual_seed(1)
    saved = {
        "matrix": torch.randn(300, 70, generator=generator),
        "half": torch.randn(5, 7, generator=generator).bfloat16(),
        "scalar": torch.tensor(3.5, dtype=torch.float64),
        "empty": torch.zeros(0, 4, dtype=torch.int64),
        "flags": torch.tensor([True, False, True]),
        "complex": torch.randn(3, dtype=torch.complex64, generator=generator),
        "eight": torch.randn(6, generator=generator).to(torch.float8_e4m3fn),
    }
    save_file(saved, tmp_path / "model.safetensors")

    weights = AttachedWeights(pool.fd, loaded(pool, loader, tmp_path))
    tensors = weights.tensors()

    expected = load_file(tmp_path / "model.safetensors")
    assert tensors.keys() == expected.keys()
    for name, tensor in expected.items():
        assert tensors[name].dtype == tensor.dtype
        assert tensors[name].shape == tensor.shape
        assert raw_bytes(tensors[name]) == raw_bytes(tensor)
    assert weights.copied_bytes == 0
    assert weights.size_bytes == sum(tensor.nbytes for tensor in expected.values())


def test_shows_private_memory_where_it_was_loaded(tmp_path: Path) -> None:
    write_sharded_checkpoint(
        tmp_path,
        {
            f"model-{i}.safetensors": {
                f"t{i}": RawTensor(dtype="U8", shape=(5000,), data=bytes([i + 1]) * 5000)
            }
            for i in range(3)
        },
    )
    pool = ChunkPool(4 * CHUNK_BYTES, is_shared=False)
    with Loader(pool) as loader:
        layout = loaded(pool, loader, tmp_path)
    weights, again = AttachedWeights(pool, layout), AttachedWeights(pool, layout)
    pool.close()
    del pool, loader

    tensors = weights.tensors()
    assert [raw_bytes(tensors[f"t{i}"]) for i in range(3)] == [
        bytes([i + 1]) * 5000 for i in range(3)
    ]
    tensors["t1"].fill_(9)
    assert raw_bytes(again.tensors()["t1"]) == bytes([9]) * 5000


def test_private_memory_has_no_descriptor_and_shows_no_chunks_that_lie_apart() -> None:
    pool = ChunkPool(4 * CHUNK_BYTES, is_shared=False)
    apart = FileLayout(size_bytes=CHUNK_BYTES + 1, chunks=(0, 2))
    layout = WeightLayout(chunk_bytes=CHUNK_BYTES, files=(apart,), tensors={}, aliases={})

    assert not pool.is_shared
    assert pool.fd == -1
    with pytest.raises(LayoutMismatch, match="no neighbours"):
        AttachedWeights(pool, layout)
    pool.close()
    with pytest.raises(PoolClosed):
        AttachedWeights(pool, layout)


def test_a_tensor_across_chunks_is_contiguous(
    pool: ChunkPool, loader: Loader, tmp_path: Path, rng: random.Random
) -> None:
    tensor = random_tensor(rng, "U8", 2 * CHUNK_BYTES)
    path = write_checkpoint(tmp_path, {"t": tensor})
    checkpoint = Checkpoint.open(path)
    # Chunks that are neither neighbours nor in order.
    allocated = pool.allocate(9)
    chunks = [allocated[7], allocated[1], allocated[4]]
    loader.submit(checkpoint, chunks).result(DEADLINE_SECONDS)

    layout = WeightLayout.of(checkpoint, chunks, pool.chunk_bytes)
    view = AttachedWeights(pool.fd, layout).tensors()["t"]

    digest = hashlib.sha256(view.numpy().tobytes()).digest()
    assert digest == hashlib.sha256(tensor.data).digest()


def test_maps_shards_side_by_side(
    pool: ChunkPool, loader: Loader, tmp_path: Path, rng: random.Random
) -> None:
    shards = {
        "1.safetensors": {"a": random_tensor(rng, "F32", 100)},
        "2.safetensors": {"b": random_tensor(rng, "F32", 50), "c": random_tensor(rng, "I8", 3)},
    }
    write_sharded_checkpoint(tmp_path, shards)

    tensors = AttachedWeights(pool.fd, loaded(pool, loader, tmp_path)).tensors()

    for shard in shards.values():
        for name, tensor in shard.items():
            assert raw_bytes(tensors[name]) == tensor.data


def test_views_share_the_pools_memory(pool: ChunkPool, loader: Loader, directory: Path) -> None:
    weights = AttachedWeights(pool.fd, loaded(pool, loader, directory))

    first = weights.tensors()["lm_head.weight"]
    second = weights.tensors()["lm_head.weight"]

    assert first.data_ptr() == second.data_ptr()
    assert first.untyped_storage().nbytes() == 16 * 8 * 4


def test_writing_stays_in_this_mapping(pool: ChunkPool, loader: Loader, directory: Path) -> None:
    layout = loaded(pool, loader, directory)
    ours = AttachedWeights(pool.fd, layout).tensors()["lm_head.weight"]
    theirs = AttachedWeights(pool.fd, layout).tensors()["lm_head.weight"]
    before = theirs.clone()

    ours.zero_()

    assert torch.equal(theirs.view(torch.int32), before.view(torch.int32))


def test_unaligned_tensors_are_copied_and_counted(
    pool: ChunkPool, loader: Loader, tmp_path: Path, rng: random.Random
) -> None:
    tensors = {"odd": random_tensor(rng, "U8", 3), "f": random_tensor(rng, "F32", 5)}
    weights = AttachedWeights(pool.fd, loaded(pool, loader, write_checkpoint(tmp_path, tensors)))

    view = weights.tensors()["f"]

    assert weights.copied_bytes == 5 * 4
    assert view.data_ptr() % 4 == 0
    assert raw_bytes(view) == tensors["f"].data


@pytest.mark.parametrize("dtype", sorted(ITEM_BITS))
def test_every_dtype_becomes_a_tensor_of_its_bytes(
    pool: ChunkPool, loader: Loader, tmp_path: Path, rng: random.Random, dtype: str
) -> None:
    tensor = random_tensor(rng, dtype, 2, 8)
    path = write_checkpoint(tmp_path, {"t": tensor, "none": random_tensor(rng, dtype, 0)})

    views = AttachedWeights(pool.fd, loaded(pool, loader, path)).tensors()

    assert views["t"].nbytes == len(tensor.data)
    assert raw_bytes(views["t"]) == tensor.data
    assert views["none"].nbytes == 0


def test_sub_byte_items_become_what_torch_has(
    pool: ChunkPool, loader: Loader, tmp_path: Path, rng: random.Random
) -> None:
    tensors = {"four": random_tensor(rng, "F4", 2, 8), "six": random_tensor(rng, "F6_E2M3", 4, 2)}
    path = write_checkpoint(tmp_path, tensors)

    views = AttachedWeights(pool.fd, loaded(pool, loader, path)).tensors()

    # Two values of F4 share a byte; torch knows no F6, and 8 items of 6 bits are 6 bytes.
    assert views["four"].shape == (2, 4)
    assert (views["six"].dtype, tuple(views["six"].shape)) == (torch.uint8, (6,))


def test_declared_aliases_are_told(
    pool: ChunkPool, loader: Loader, tmp_path: Path, tensors: dict[str, RawTensor]
) -> None:
    path = write_checkpoint(tmp_path / "aliased", tensors, {"head": "lm_head.weight"})

    weights = AttachedWeights(pool.fd, loaded(pool, loader, path))

    assert weights.aliases == {"head": "lm_head.weight"}
    assert "head" not in weights.tensors()


def test_tensors_outlive_weights_pool_and_file(directory: Path) -> None:
    pool = ChunkPool(CHUNK_BYTES)
    with Loader(pool) as loader:
        weights = AttachedWeights(pool.fd, loaded(pool, loader, directory))
    tensor = weights.tensors()["model.layers.2.w"]
    before = raw_bytes(tensor)

    weights.close()
    pool.close()
    (directory / "model.safetensors").unlink()
    del weights, pool, loader
    gc.collect()

    assert raw_bytes(tensor) == before


def test_mappings_go_with_the_last_tensor(pool: ChunkPool, loader: Loader, directory: Path) -> None:
    def n_mappings() -> int:
        return Path("/proc/self/maps").read_text().count("pilotlight-pool")

    layout = loaded(pool, loader, directory)
    before = n_mappings()
    weights = AttachedWeights(pool.fd, layout)
    tensors = weights.tensors()
    weights.close()
    assert n_mappings() == before + 1

    del tensors
    gc.collect()

    assert n_mappings() == before


def test_says_when_nothing_maps_a_file_any_more(
    pool: ChunkPool, loader: Loader, tmp_path: Path, rng: random.Random
) -> None:
    shards = {
        "1.safetensors": {"a": random_tensor(rng, "F32", 100)},
        "2.safetensors": {"b": random_tensor(rng, "BF16", 50), "c": random_tensor(rng, "I8", 3)},
    }
    write_sharded_checkpoint(tmp_path, shards)
    weights = AttachedWeights(pool.fd, loaded(pool, loader, tmp_path))
    unmapped: list[int] = []
    weights.when_unmapped(unmapped.append)
    tensors = weights.tensors()

    weights.close()
    del tensors["a"]
    gc.collect()
    assert unmapped == [0]
    part = tensors["b"][10:]
    tensors.clear()
    gc.collect()
    assert unmapped == [0]
    del part
    gc.collect()

    assert unmapped == [0, 1]
    with pytest.raises(WeightsClosed):
        weights.when_unmapped(unmapped.append)


def test_maps_a_file_that_begins_within_a_chunk(
    pool: ChunkPool, loader: Loader, directory: Path, tensors: dict[str, RawTensor]
) -> None:
    checkpoint = Checkpoint.open(directory)
    (chunk,) = pool.allocate(1)
    places = [Place(chunk=chunk, offset=5 * 4096)]
    loader.submit(checkpoint, places).result(DEADLINE_SECONDS)

    layout = WeightLayout.of(checkpoint, places, pool.chunk_bytes)
    views = AttachedWeights(pool.fd, layout).tensors()

    assert layout.files[0].offset == 5 * 4096
    for name, tensor in tensors.items():
        assert raw_bytes(views[name]) == tensor.data


def test_a_file_of_several_chunks_begins_where_a_chunk_does(large: Checkpoint) -> None:
    places = [Place(chunk=0, offset=0), Place(chunk=1, offset=0), Place(chunk=2, offset=4096)]

    with pytest.raises(LayoutMismatch, match="several chunks"):
        WeightLayout.of(large, places, CHUNK_BYTES)
    with pytest.raises(LayoutMismatch, match="several chunks"):
        WeightLayout.of(large, [0, 1, 2], 2 * CHUNK_BYTES)


def test_storage_is_as_small_as_its_tensor(
    pool: ChunkPool, loader: Loader, tmp_path: Path, rng: random.Random
) -> None:
    tensors = {dtype: random_tensor(rng, dtype, 2, 8) for dtype in ITEM_BITS}
    path = write_checkpoint(tmp_path, tensors)

    views = AttachedWeights(pool.fd, loaded(pool, loader, path)).tensors()

    for name, tensor in tensors.items():
        assert views[name].untyped_storage().nbytes() == len(tensor.data)


def test_gives_no_tensors_once_closed(pool: ChunkPool, loader: Loader, directory: Path) -> None:
    weights = AttachedWeights(pool.fd, loaded(pool, loader, directory))

    weights.close()

    with pytest.raises(WeightsClosed):
        weights.tensors()


def layout_with(
    chunks: tuple[int, ...] = (0,),
    size_bytes: int = 100,
    entry: TensorEntry | None = None,
    offset: int = 0,
) -> WeightLayout:
    return WeightLayout(
        chunk_bytes=CHUNK_BYTES,
        files=(FileLayout(size_bytes=size_bytes, chunks=chunks, offset=offset),),
        tensors={} if entry is None else {"t": entry},
        aliases={},
    )


def entry(file: int = 0, offset: int = 0, size_bytes: int = 4, dtype: str = "F32") -> TensorEntry:
    return TensorEntry(file=file, offset=offset, size_bytes=size_bytes, dtype=dtype, shape=(1,))


@pytest.mark.parametrize(
    "layout",
    [
        layout_with(chunks=(12,)),
        layout_with(chunks=(-1,)),
        layout_with(size_bytes=-1),
        layout_with(offset=-4096),
        layout_with(offset=4095),
        layout_with(offset=CHUNK_BYTES),
        layout_with(offset=CHUNK_BYTES - 4096, size_bytes=4097),
        layout_with(offset=-4096, size_bytes=CHUNK_BYTES),
        layout_with(size_bytes=CHUNK_BYTES + 1),
        layout_with(entry=entry(file=1)),
        layout_with(entry=entry(file=-1)),
        layout_with(entry=entry(offset=97)),
        layout_with(entry=entry(offset=-4)),
        layout_with(entry=entry(size_bytes=-4)),
        layout_with(entry=entry(dtype="F128")),
        layout_with(entry=entry(size_bytes=8)),
    ],
)
def test_refuses_a_layout_that_does_not_fit(pool: ChunkPool, layout: WeightLayout) -> None:
    with pytest.raises(LayoutMismatch):
        AttachedWeights(pool.fd, layout)


def test_refuses_a_descriptor_that_is_none() -> None:
    with pytest.raises(MemoryRefused):
        AttachedWeights(-1, layout_with())


def test_a_layout_describes_only_chunks_that_can_hold_the_checkpoint(large: Checkpoint) -> None:
    with pytest.raises(LayoutMismatch):
        WeightLayout.of(large, [1, 2], CHUNK_BYTES)


ATTACH = """
import hashlib, json, sys
import msgspec
from pilotlight.native_loader import AttachedWeights, WeightLayout
layout = msgspec.json.decode(sys.stdin.read(), type=WeightLayout)
tensors = AttachedWeights(int(sys.argv[1]), layout).tensors()
print(json.dumps({n: hashlib.sha256(t.numpy().tobytes()).hexdigest() for n, t in tensors.items()}))
"""


@pytest.mark.integration
def test_another_process_attaches_by_the_descriptor(
    pool: ChunkPool, loader: Loader, large: Checkpoint
) -> None:
    chunks = pool.allocate(large.n_chunks)
    loader.submit(large, chunks).result(DEADLINE_SECONDS)
    layout = WeightLayout.of(large, chunks, pool.chunk_bytes)
    fd = os.dup(pool.fd)

    run = subprocess.run(
        [sys.executable, "-c", ATTACH, str(fd)],
        input=msgspec.json.encode(layout).decode(),
        pass_fds=[fd],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    os.close(fd)

    data = large.files[0].path.read_bytes()
    assert json.loads(run.stdout) == {
        name: hashlib.sha256(data[e.offset : e.offset + e.size_bytes]).hexdigest()
        for name, e in large.tensors.items()
    }


def test_a_layout_survives_messages(large: Checkpoint) -> None:
    layout = WeightLayout.of(large, [5, 6, 2], CHUNK_BYTES)
    within = layout_with(entry=entry(), offset=4096)

    for codec in (msgspec.json, msgspec.msgpack):
        for each in (layout, within):
            assert codec.decode(codec.encode(each), type=WeightLayout) == each
