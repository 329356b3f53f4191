from __future__ import annotations

import gc
import json
import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from pilotlight.native_loader import (
    CHUNK_BYTES,
    Checkpoint,
    ChecksumLedger,
    ChecksumMismatch,
    ChunkPool,
    CorruptCheckpoint,
    FileChanged,
    LoaderClosed,
    LoaderError,
    NotACheckpoint,
    OutsideRoots,
    PoolExhausted,
    batches,
)
from pilotlight.native_loader.batches import BatchLoader, load_batch
from pilotlight.native_loader.memory.slab import Slab
from pilotlight.native_loader.packing.pack import pack
from pilotlight.native_loader.testing import (
    RawTensor,
    random_tensor,
    safetensors_bytes,
    write_checkpoint,
    write_sharded_checkpoint,
)

Tensors = dict[str, RawTensor]


@pytest.fixture
def slab(pool: ChunkPool) -> Slab:
    return Slab(pool)


@pytest.fixture
def loader(slab: Slab) -> Iterator[BatchLoader]:
    with BatchLoader(slab) as loader:
        yield loader


def adapter(rng: random.Random) -> Tensors:
    return {
        "lora_A.weight": random_tensor(rng, "BF16", 8, 64),
        "lora_B.weight": random_tensor(rng, "F16", 64, 8),
        "alpha": random_tensor(rng, "F32"),
    }


def assert_equal(loaded: dict[str, torch.Tensor], expected: Tensors) -> None:
    assert loaded.keys() == expected.keys()
    for name, tensor in expected.items():
        assert tuple(loaded[name].shape) == tensor.shape
        assert loaded[name].reshape(-1).view(torch.uint8).numpy().tobytes() == tensor.data


def test_loads_many_at_once(tmp_path: Path, rng: random.Random) -> None:
    adapters = [adapter(rng) for _ in range(20)]
    paths = [write_checkpoint(tmp_path / str(i), each) for i, each in enumerate(adapters)]

    loaded = load_batch([*paths[:10], *(path / "model.safetensors" for path in paths[10:])])

    for tensors, expected in zip(loaded, adapters, strict=True):
        assert_equal(tensors, expected)


def test_loads_nothing_at_all() -> None:
    assert load_batch([]) == []


def test_loads_small_and_large_ones_side_by_side(
    tmp_path: Path, rng: random.Random, large: Checkpoint, directory: Path, tensors: Tensors
) -> None:
    pack(Checkpoint.open(directory), tmp_path / "packed")
    shards = {
        "1.safetensors": {"a": random_tensor(rng, "F32", 100)},
        "2.safetensors": {"b": random_tensor(rng, "F32", 50)},
    }
    sharded = write_sharded_checkpoint(tmp_path / "sharded", shards)

    loaded = load_batch([directory, large.path, tmp_path / "packed", sharded])

    assert_equal(loaded[0], tensors)
    data = large.files[0].path.read_bytes()
    for name, entry in large.tensors.items():
        expected = data[entry.offset : entry.offset + entry.size_bytes]
        assert loaded[1][name].view(torch.uint8).numpy().tobytes() == expected
    assert_equal(loaded[2], tensors)
    assert_equal(loaded[3], shards["1.safetensors"] | shards["2.safetensors"])


def test_returns_declared_aliases(tmp_path: Path, tensors: Tensors, loader: BatchLoader) -> None:
    path = write_checkpoint(tmp_path / "aliased", tensors, {"head": "lm_head.weight"})

    loaded = loader.load(path)

    assert loaded["head"] is loaded["lm_head.weight"]


def test_copies_what_is_not_aligned_once_it_is_there(
    tmp_path: Path, rng: random.Random, loader: BatchLoader
) -> None:
    tensors = {"odd": random_tensor(rng, "U8", 3), "f": random_tensor(rng, "F32", 500)}

    loaded = loader.load(write_checkpoint(tmp_path, tensors))

    assert_equal(loaded, tensors)


def test_room_is_bound_while_a_tensor_lives_and_used_again_then(
    tmp_path: Path, rng: random.Random, pool: ChunkPool, slab: Slab, loader: BatchLoader
) -> None:
    path = write_checkpoint(tmp_path, {"t": random_tensor(rng, "U8", 9 << 20)})

    first = loader.load(path)["t"]
    second = loader.load(path)["t"]
    assert pool.accounts().bound == 2
    assert torch.equal(first, second)
    address = second.data_ptr()
    del second
    gc.collect()
    third = loader.load(path)["t"]

    assert pool.accounts().bound == 2
    assert torch.equal(first, third)
    assert address != third.data_ptr() or slab.accounts().n_chunks == 2


def test_many_more_fit_one_after_another_than_at_once(
    tmp_path: Path, rng: random.Random, pool: ChunkPool, loader: BatchLoader
) -> None:
    path = write_checkpoint(tmp_path, {"t": random_tensor(rng, "U8", 9 << 20)})

    for _ in range(3 * pool.n_chunks):
        loader.load(path)

    with pytest.raises(PoolExhausted):
        loader.load_all([path] * (pool.n_chunks + 1))
    loader.reclaim()
    assert pool.accounts().free == pool.n_chunks


def test_tensors_outlive_the_loader_and_its_pool(tmp_path: Path, rng: random.Random) -> None:
    expected = adapter(rng)
    pool = ChunkPool(CHUNK_BYTES)
    with BatchLoader(Slab(pool)) as loader:
        loaded = loader.load(write_checkpoint(tmp_path, expected))
    pool.close()
    del loader, pool
    gc.collect()

    assert_equal(loaded, expected)


def broken(tmp_path: Path) -> Path:
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "model.safetensors").write_bytes(b"\x02" + bytes(7) + b"[]" + bytes(99))
    return tmp_path / "broken"


def pickled(tmp_path: Path) -> Path:
    file = tmp_path / "pickled.safetensors"
    file.write_bytes(b"\x80\x02}q\x00" + bytes(100))
    return file


def missing(tmp_path: Path) -> Path:
    return tmp_path / "missing"


def empty(tmp_path: Path) -> Path:
    (tmp_path / "empty.safetensors").write_bytes(b"")
    return tmp_path / "empty.safetensors"


@pytest.mark.parametrize("make_bad", [broken, pickled, missing, empty])
def test_one_bad_checkpoint_is_the_error_of_opening_it_and_none_is_loaded(
    tmp_path: Path,
    rng: random.Random,
    pool: ChunkPool,
    slab: Slab,
    loader: BatchLoader,
    make_bad: Callable[[Path], Path],
) -> None:
    paths = [write_checkpoint(tmp_path / str(i), adapter(rng)) for i in range(3)]
    paths.insert(2, make_bad(tmp_path))
    with pytest.raises(LoaderError) as expected:
        Checkpoint.open(paths[2])

    with pytest.raises(LoaderError) as caught:
        loader.load_all(paths)

    assert (type(caught.value), str(caught.value)) == (type(expected.value), str(expected.value))
    assert pool.accounts().free == pool.n_chunks
    slab.check_integrity()
    assert len(loader.load_all(paths[:2])) == 2


def test_many_headers_are_taken_from_what_was_read(
    tmp_path: Path, rng: random.Random, loader: BatchLoader, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved = [adapter(rng) for _ in range(4)]
    paths = [write_checkpoint(tmp_path / str(i), each) for i, each in enumerate(saved)]
    pread = os.pread
    n_read = 0

    def counted(fd: int, n_bytes: int, offset: int) -> bytes:
        nonlocal n_read
        n_read += 1
        return pread(fd, n_bytes, offset)

    monkeypatch.setattr(os, "pread", counted)

    together = loader.load_all(paths)
    assert n_read == 0
    alone = loader.load(paths[0])

    assert n_read > 0
    for tensors, expected in zip([*together, alone], [*saved, saved[0]], strict=True):
        assert_equal(tensors, expected)


def test_says_when_a_file_is_replaced_while_it_is_opened(
    tmp_path: Path,
    rng: random.Random,
    pool: ChunkPool,
    loader: BatchLoader,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = write_checkpoint(tmp_path / "a", adapter(rng))
    other = write_checkpoint(tmp_path / "b", adapter(rng))

    class Replacing(Checkpoint):
        @classmethod
        def open(cls, path: str | Path, **_: object) -> Checkpoint:
            (other / "model.safetensors").replace(Path(path) / "model.safetensors")
            return Checkpoint.open(path)

    monkeypatch.setattr(batches, "Checkpoint", Replacing)

    with pytest.raises(FileChanged, match="replaced or written to"):
        loader.load(path)

    assert pool.accounts().free == pool.n_chunks


def test_verifies_known_checksums(
    tmp_path: Path, rng: random.Random, slab: Slab, flip_byte: Callable[[Path, int], None]
) -> None:
    path = write_checkpoint(tmp_path / "a", adapter(rng))
    ledger = ChecksumLedger(tmp_path / "ledger")
    with BatchLoader(slab, ledger=ledger, use_page_cache=False) as loader:
        loader.load(path)
        file = Checkpoint.open(path).files[0]
        sums = ledger.find(file)
        assert sums is not None
        ledger.learn(file, [sums[0] ^ 1])

        with pytest.raises(ChecksumMismatch):
            loader.load(path)


def test_a_closed_loader_takes_no_room(
    tmp_path: Path, rng: random.Random, pool: ChunkPool, loader: BatchLoader
) -> None:
    path = write_checkpoint(tmp_path, adapter(rng))
    loader.close()

    with pytest.raises(LoaderClosed):
        loader.load(path)

    assert pool.accounts().free == pool.n_chunks


def test_stays_inside_the_roots(tmp_path: Path, slab: Slab, rng: random.Random) -> None:
    inside = write_checkpoint(tmp_path / "root" / "a", adapter(rng))
    outside = write_checkpoint(tmp_path / "b", adapter(rng))
    link = tmp_path / "root" / "c"
    link.mkdir()
    (link / "model.safetensors").symlink_to(outside / "model.safetensors")

    with BatchLoader(slab, roots=[tmp_path / "root"]) as loader:
        loader.load(inside)
        for path in (outside, link):
            with pytest.raises(OutsideRoots):
                loader.load(path)


def test_an_unread_file_never_waits(tmp_path: Path, loader: BatchLoader) -> None:
    import os

    os.mkfifo(tmp_path / "model.safetensors")

    with pytest.raises(CorruptCheckpoint, match="no regular file"):
        loader.load(tmp_path)


def test_several_files_without_an_index_are_no_checkpoint(
    tmp_path: Path, loader: BatchLoader
) -> None:
    for name in "ab":
        (tmp_path / f"{name}.safetensors").write_bytes(safetensors_bytes({}))
    (tmp_path / "adapter_config.json").write_text(json.dumps({}))

    with pytest.raises(NotACheckpoint, match="holds 2 safetensors files"):
        loader.load(tmp_path)
