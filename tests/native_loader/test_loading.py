from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from pilotlight.native_loader import (
    CHUNK_BYTES,
    Checkpoint,
    ChecksumLedger,
    ChunkPool,
    DeviceMemoryRefused,
    DeviceUnavailable,
    Loader,
    NotACheckpoint,
    OutsideRoots,
    PoolExhausted,
    load,
)
from pilotlight.native_loader.devices.device import open_device
from pilotlight.native_loader.loading import load_through
from pilotlight.native_loader.packing.pack import pack
from pilotlight.native_loader.testing import RawTensor, write_checkpoint


def same_bytes(one: torch.Tensor, other: torch.Tensor) -> bool:
    return torch.equal(one.view(torch.uint8), other.view(torch.uint8))


def test_loads_in_one_line(tmp_path: Path) -> None:
    saved = {"a": torch.arange(12.0).reshape(3, 4), "b": torch.tensor(2)}
    save_file(saved, tmp_path / "model.safetensors")

    tensors = load(tmp_path)

    assert tensors.keys() == saved.keys()
    assert all(torch.equal(tensors[name], saved[name]) for name in saved)


def test_tensors_can_be_changed(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(4)}, tmp_path / "model.safetensors")
    tensors = load(tmp_path)

    tensors["a"] += 1

    assert tensors["a"].tolist() == [1.0] * 4
    assert load_file(tmp_path / "model.safetensors")["a"].tolist() == [0.0] * 4


def test_declared_aliases_are_names_of_the_same_tensor(
    tmp_path: Path, tensors: dict[str, RawTensor]
) -> None:
    loaded = load(write_checkpoint(tmp_path / "aliased", tensors, {"head": "lm_head.weight"}))

    assert loaded["head"] is loaded["lm_head.weight"]


def test_says_which_devices_there_are(directory: Path) -> None:
    with pytest.raises(DeviceUnavailable, match="devices are called"):
        load(directory, "gpu")


def test_stays_inside_the_roots(directory: Path, tmp_path: Path) -> None:
    with pytest.raises(OutsideRoots):
        load(directory, roots=[tmp_path / "elsewhere"])


def test_says_when_there_is_nothing(tmp_path: Path) -> None:
    with pytest.raises(NotACheckpoint):
        load(tmp_path)


def test_learns_into_a_ledger_and_tells_progress(tmp_path: Path, large: Checkpoint) -> None:
    ledger = ChecksumLedger(tmp_path / "ledger")
    told: list[tuple[int, int]] = []

    load(large.path, ledger=ledger, progress=lambda *done: told.append(done))

    assert ledger.find(large.files[0]) is not None
    assert told[-1] == (large.size_bytes, large.size_bytes)


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama as transformers saves it: in shards, with its output tied to its input."""
    torch.manual_seed(1)
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=True,
    )
    path = tmp_path_factory.mktemp("llama")
    LlamaForCausalLM(config).save_pretrained(path, max_shard_size="20KB")
    return path


@pytest.mark.integration
def test_a_sharded_model_loads_as_safetensors_loads_it(llama: Path) -> None:
    files = sorted(llama.glob("model-*.safetensors"))

    tensors = load(llama)

    expected = {name: tensor for file in files for name, tensor in load_file(file).items()}
    # Its config.json says so.
    expected["lm_head.weight"] = expected["model.embed_tokens.weight"]
    assert len(files) > 1
    assert tensors.keys() == expected.keys()
    assert all(torch.equal(tensors[name], expected[name]) for name in expected)


@pytest.mark.integration
def test_transformers_reads_a_packed_model(tmp_path: Path, llama: Path) -> None:
    pack(Checkpoint.open(llama), tmp_path / "packed")

    packed = AutoModelForCausalLM.from_pretrained(tmp_path / "packed").state_dict()

    original = AutoModelForCausalLM.from_pretrained(llama).state_dict()
    assert packed.keys() == original.keys()
    assert all(torch.equal(packed[name], original[name]) for name in original)


def test_a_checkpoint_larger_than_the_pool_is_loaded_through_it(large: Checkpoint) -> None:
    pool = ChunkPool(2 * CHUNK_BYTES)
    with Loader(pool) as loader:
        weights, result = load_through(loader, pool, large, open_device("cpu"))
        again, _ = load_through(loader, pool, large, open_device("cpu"))

    expected = load_file(large.files[0].path)
    assert large.n_chunks > pool.n_chunks
    assert result.bytes_read == large.size_bytes
    assert result.copied_bytes == weights.size_bytes
    assert not result.tells_disk_speed
    assert all(same_bytes(weights.tensors()[name], expected[name]) for name in expected)
    assert all(same_bytes(again.tensors()[name], expected[name]) for name in expected)
    assert pool.accounts().free == pool.n_chunks


def test_a_load_that_is_given_up_leaves_the_pool_as_it_was(large: Checkpoint) -> None:
    pool = ChunkPool(2 * CHUNK_BYTES)

    def give_up(done_bytes: int, total_bytes: int) -> None:
        raise KeyboardInterrupt

    with Loader(pool) as loader, pytest.raises(KeyboardInterrupt):
        load_through(loader, pool, large, open_device("cpu"), progress=give_up)

    assert pool.accounts().free == pool.n_chunks
    pool.close()


def test_says_that_a_pool_has_no_chunk_left(large: Checkpoint) -> None:
    pool = ChunkPool(CHUNK_BYTES)
    pool.allocate(1)

    with Loader(pool) as loader, pytest.raises(PoolExhausted):
        load_through(loader, pool, large, open_device("cpu"))


@pytest.mark.parametrize("available_bytes", [3 * CHUNK_BYTES, 4096])
def test_says_in_bytes_how_much_memory_there_is(
    large: Checkpoint, monkeypatch: pytest.MonkeyPatch, available_bytes: int
) -> None:
    monkeypatch.setattr(
        "pilotlight.native_loader.memory.pool.available_memory_bytes", lambda: available_bytes
    )

    with pytest.raises(DeviceMemoryRefused) as caught:
        load(large.path)

    assert caught.value.wanted_bytes == 3 * CHUNK_BYTES
    assert caught.value.free_bytes <= available_bytes
