from __future__ import annotations

import inspect
import random
from pathlib import Path

import pytest
import safetensors.torch
import torch

from pilotlight.native_loader import (
    CorruptCheckpoint,
    DeviceUnavailable,
    NotACheckpoint,
    PickleRefused,
    load_file,
)
from pilotlight.native_loader.formats.dtypes import ITEM_BITS
from pilotlight.native_loader.testing import RawTensor, random_tensor, safetensors_bytes

Tensors = dict[str, RawTensor]

# PyTorch has no type for these, and safetensors refuses them.
_NO_TYPE = ("F6_E2M3", "F6_E3M2")


def write(file: Path, tensors: Tensors, metadata: dict[str, str] | None = None) -> Path:
    file.write_bytes(safetensors_bytes(tensors, metadata))
    return file


def raw(tensor: torch.Tensor) -> bytes:
    return bytes(tensor.contiguous().reshape(-1).view(torch.uint8).tolist())


def assert_same(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        assert ours[name].dtype == tensor.dtype, name
        assert ours[name].shape == tensor.shape, name
        assert raw(ours[name]) == raw(tensor), name


def test_the_signature_is_that_of_safetensors() -> None:
    ours = list(inspect.signature(load_file).parameters.values())
    theirs = list(inspect.signature(safetensors.torch.load_file).parameters.values())

    assert [(each.name, each.default) for each in ours] == [
        (each.name, each.default) for each in theirs[:2]
    ]


@pytest.mark.parametrize("dtype", sorted(set(ITEM_BITS) - set(_NO_TYPE)))
def test_every_dtype_is_that_of_safetensors(tmp_path: Path, rng: random.Random, dtype: str) -> None:
    tensors = {
        "matrix": random_tensor(rng, dtype, 6, 4),
        "vector": random_tensor(rng, dtype, 8),
        "empty": random_tensor(rng, dtype, 0, 2),
    }
    if ITEM_BITS[dtype] >= 8:
        tensors["scalar"] = random_tensor(rng, dtype)
    file = write(tmp_path / "x.safetensors", tensors)

    assert_same(load_file(file), safetensors.torch.load_file(file))


@pytest.mark.parametrize("dtype", _NO_TYPE)
def test_what_torch_has_no_type_for_is_bytes(
    tmp_path: Path, rng: random.Random, dtype: str
) -> None:
    tensors = {"matrix": random_tensor(rng, dtype, 2, 4)}
    file = write(tmp_path / "x.safetensors", tensors)

    assert raw(load_file(file)["matrix"]) == tensors["matrix"].data


def test_aliases_and_neighbours_are_left_out(tmp_path: Path, tensors: Tensors) -> None:
    write(tmp_path / "model.safetensors", {})
    (tmp_path / "config.json").write_text('{"tie_word_embeddings": true}')
    del tensors["lm_head.weight"]
    file = write(tmp_path / "x", tensors, {"head": "model.embed_tokens.weight"})

    assert_same(load_file(str(file)), safetensors.torch.load_file(file))


def test_a_file_without_tensors_is_empty(tmp_path: Path) -> None:
    assert load_file(write(tmp_path / "x.safetensors", {})) == {}


def test_a_missing_file_is_the_same_error(tmp_path: Path) -> None:
    for load in (load_file, safetensors.torch.load_file):
        with pytest.raises(FileNotFoundError):
            load(tmp_path / "x.safetensors")


def test_broken_files_are_errors(tmp_path: Path, tensors: Tensors) -> None:
    file = write(tmp_path / "x.safetensors", tensors)
    file.write_bytes(file.read_bytes()[:-1])
    (tmp_path / "pickle.safetensors").write_bytes(b"\x80\x02" + bytes(100))

    with pytest.raises(CorruptCheckpoint):
        load_file(file)
    with pytest.raises(PickleRefused):
        load_file(tmp_path / "pickle.safetensors")
    with pytest.raises(NotACheckpoint, match="is a directory"):
        load_file(tmp_path)


def test_an_int_is_a_cuda_device(tmp_path: Path, tensors: Tensors) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is such a device")
    file = write(tmp_path / "x.safetensors", tensors)

    with pytest.raises(DeviceUnavailable, match="cuda"):
        load_file(file, 0)


@pytest.mark.parametrize("n_dimensions", [64, 65, 200])
def test_tensors_of_any_number_of_dimensions_are_those_of_safetensors(
    tmp_path: Path, rng: random.Random, n_dimensions: int
) -> None:
    tensors = {"a": random_tensor(rng, "F32", *[1] * n_dimensions)}
    file = write(tmp_path / "x.safetensors", tensors)

    assert_same(load_file(file), safetensors.torch.load_file(file))


def test_f4_that_can_not_be_halved_is_bytes(tmp_path: Path, rng: random.Random) -> None:
    tensors = {"a": random_tensor(rng, "F4", 2, 3)}
    file = write(tmp_path / "x.safetensors", tensors)

    assert raw(load_file(file)["a"]) == tensors["a"].data
    with pytest.raises(safetensors.SafetensorError):
        safetensors.torch.load_file(file)


def test_metadata_that_is_null_breaks_the_format_here(tmp_path: Path) -> None:
    header = b'{"__metadata__":null}'
    file = tmp_path / "x.safetensors"
    file.write_bytes(len(header).to_bytes(8, "little") + header)

    assert safetensors.torch.load_file(file) == {}
    with pytest.raises(CorruptCheckpoint, match="__metadata__ is no JSON object"):
        load_file(file)
