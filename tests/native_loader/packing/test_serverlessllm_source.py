from __future__ import annotations

import json
import tracemalloc
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from pilotlight.native_loader import CorruptCheckpoint, FileChanged, NotACheckpoint, load
from pilotlight.native_loader.packing.pack import pack
from pilotlight.native_loader.packing.serverlessllm_source import ServerlessLLMSource
from pilotlight.native_loader.packing.source_kinds import open_source

Tensors = dict[str, torch.Tensor]


def bytes_of(tensor: torch.Tensor) -> bytes:
    storage = torch.empty(0, dtype=torch.uint8).set_(tensor.untyped_storage())
    return storage.numpy().tobytes()


def save_dict(
    directory: Path, state: Mapping[str, torch.Tensor], sizes: Sequence[int] = ()
) -> Path:
    """Write what the other program writes: storages padded to 8 bytes, one for each pointer."""
    directory.mkdir(exist_ok=True)
    index: dict[str, Any] = {}
    offsets: dict[int, int] = {}
    data = b""
    for name, tensor in state.items():
        raw = bytes_of(tensor)
        pointer = tensor.untyped_storage().data_ptr()
        if pointer not in offsets:
            offsets[pointer] = len(data)
            data += raw + b"\xee" * (-len(raw) % 8)
        index[name] = [
            offsets[pointer],
            len(raw),
            list(tensor.shape),
            list(tensor.stride()),
            str(tensor.dtype),
        ]
    (directory / "tensor_index.json").write_text(json.dumps(index))
    begin = 0
    for number, size in enumerate((*sizes, len(data))):
        (directory / f"tensor.data_{number}").write_bytes(data[begin : begin + size])
        begin += size
    return directory


def assert_same(found: Tensors, expected: Tensors) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor), name


@pytest.fixture
def state() -> Tensors:
    """Return tensors of what that format knows; names in no order."""
    base = torch.arange(5 * 3, dtype=torch.float32).reshape(5, 3)
    return {
        "model.norm.weight": base[0].clone(),
        "model.embed_tokens.weight": base,
        "half": base.half(),
        "bytes": torch.arange(3, dtype=torch.uint8),
        "long": torch.tensor(7),
    }


@pytest.mark.parametrize("sizes", [(), (16, 60), (77,)], ids=str)
def test_packs_its_files(tmp_path: Path, state: Tensors, sizes: Sequence[int]) -> None:
    directory = save_dict(tmp_path / "source", state, sizes)
    (directory / "config.json").write_text("{}")

    packed = pack(open_source(directory), tmp_path / "packed")

    assert_same(load(packed.path), state)
    assert packed.aliases == {}
    assert packed.execution_files == ("config.json",)


def test_padding_is_not_packed(tmp_path: Path, state: Tensors) -> None:
    packed = pack(open_source(save_dict(tmp_path / "source", state)), tmp_path / "packed")

    size_bytes = sum(tensor.nbytes for tensor in state.values())
    assert packed.size_bytes - packed.files[0].data_offset == size_bytes


def test_strides_are_put_in_order(tmp_path: Path) -> None:
    base = torch.arange(24, dtype=torch.int32).reshape(2, 3, 4)
    state = {
        "transposed": base.clone().permute(2, 0, 1),
        "large": torch.arange(3_000_000, dtype=torch.int32).reshape(1500, 2000).T,
        "spread": torch.arange(4.0)[None].expand(3, 4),
        "one_row": torch.arange(4.0)[None],
    }

    packed = pack(open_source(save_dict(tmp_path / "source", state)), tmp_path / "packed")

    assert_same(load(packed.path), {name: each.contiguous() for name, each in state.items()})


def written(directory: Path, entry: tuple[int, int, Sequence[int], Sequence[int]]) -> Path:
    """Write one tensor of int32 over the items 0, 1, 2..., in two files."""
    directory.mkdir()
    data = torch.arange((entry[0] + entry[1]) // 4 + 1, dtype=torch.int32).numpy().tobytes()
    (directory / "tensor.data_0").write_bytes(data[: len(data) // 3])
    (directory / "tensor.data_1").write_bytes(data[len(data) // 3 :])
    (directory / "tensor_index.json").write_text(json.dumps({"a": [*entry, "torch.int32"]}))
    return directory


@pytest.mark.parametrize(
    ("offset", "size_bytes", "shape", "stride"),
    [
        (8, 4, [5], [0]),
        (4, 28, [3], [3]),
        (0, 16, [1000, 4], [0, 1]),
        (4, 44, [3, 2, 2], [4, 0, 2]),
        (0, 32, [2, 4, 3], [4, 1, 0]),
        (0, 0, [0, 4], [9, 9]),
    ],
    ids=str,
)
@pytest.mark.parametrize("piece_bytes", [8, 24, 4 << 20])
def test_any_strides_are_put_in_order(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    offset: int,
    size_bytes: int,
    shape: list[int],
    stride: list[int],
    piece_bytes: int,
) -> None:
    module = "pilotlight.native_loader.packing.serverlessllm_source"
    monkeypatch.setattr(f"{module}.PIECE_BYTES", piece_bytes)
    monkeypatch.setattr(f"{module}._BLOCK_BYTES", 2 * piece_bytes)
    directory = written(tmp_path / "source", (offset, size_bytes, shape, stride))

    packed = pack(open_source(directory), tmp_path / "packed")

    items = torch.arange((offset + size_bytes) // 4 + 1, dtype=torch.int32)
    expected = torch.as_strided(items, shape, stride, offset // 4)
    assert_same(load(packed.path), {"a": expected.contiguous()})


def test_more_dimensions_than_numpy_knows_are_put_in_order(tmp_path: Path) -> None:
    ones = [1] * 69
    source = open_source(written(tmp_path / "source", (0, 32, [*ones, 4, 2], [*ones, 1, 4])))

    with source.opened() as stream:
        found = b"".join(bytes(piece) for piece in stream.pieces("a"))

    assert (
        found == torch.arange(8, dtype=torch.int32).reshape(2, 4).T.contiguous().numpy().tobytes()
    )


def test_memory_does_not_grow_with_a_tensor_that_is_out_of_order(tmp_path: Path) -> None:
    # 16 GiB, of which some are asked for.
    entry = (0, 65536, [1 << 18, 1 << 14], [0, 1])
    source = open_source(written(tmp_path / "source", entry))
    n_bytes = 0

    tracemalloc.start()
    try:
        with source.opened() as stream:
            for piece in stream.pieces("a"):
                n_bytes += len(piece)
                if n_bytes >= 1 << 28:
                    break
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert peak_bytes < 100 << 20


def test_shared_storage_becomes_a_declared_alias(tmp_path: Path) -> None:
    embedding = torch.randn(6, 4)
    state = {
        "model.embed_tokens.weight": embedding,
        "lm_head.weight": embedding,
        "flat": embedding.reshape(-1),
    }

    packed = pack(open_source(save_dict(tmp_path / "source", state)), tmp_path / "packed")

    assert packed.aliases == {"lm_head.weight": "model.embed_tokens.weight"}
    assert_same(load(packed.path), state)


@pytest.mark.parametrize("lost", [1, 64])
def test_a_lost_end_is_said_to_be_one(tmp_path: Path, state: Tensors, lost: int) -> None:
    directory = save_dict(tmp_path / "source", state)
    file = directory / "tensor.data_0"
    data = file.read_bytes()
    # The last tensor ends where the padding begins, if there is any.
    file.write_bytes(data[: len(data) - lost])

    with pytest.raises(CorruptCheckpoint, match="the end was lost when it was saved"):
        open_source(directory)


def test_an_empty_file_is_a_lost_end_too(tmp_path: Path, state: Tensors) -> None:
    directory = save_dict(tmp_path / "source", state)
    (directory / "tensor.data_0").write_bytes(b"")

    with pytest.raises(CorruptCheckpoint, match="hold 0 bytes, and its tensors need"):
        open_source(directory)


def test_a_missing_file_in_the_middle_is_a_lost_end_too(tmp_path: Path, state: Tensors) -> None:
    directory = save_dict(tmp_path / "source", state, (16, 60))
    (directory / "tensor.data_1").unlink()

    with pytest.raises(CorruptCheckpoint, match="the end was lost"):
        open_source(directory)


@pytest.mark.parametrize("rows", [slice(1, 3), slice(0, 2)], ids=str)
def test_a_part_of_a_storage_is_refused_for_nothing_says_which(tmp_path: Path, rows: slice) -> None:
    directory = save_dict(tmp_path / "source", {"view": torch.arange(12.0).reshape(4, 3)[rows]})

    with pytest.raises(NotACheckpoint, match="'view', which is part of a larger storage"):
        open_source(directory)


@pytest.mark.parametrize(
    ("entry", "rule"),
    [
        ([0, 4, [1], [1]], "no index of tensors"),
        ([0, 4, [1], [1], "torch.float32", 0], "no index of tensors"),
        ([-1, 4, [1], [1], "torch.float32"], "no index of tensors"),
        ([0, 4, [1], [-1], "torch.float32"], "no index of tensors"),
        ([0, 4, [1], [1], "torch.float31"], r"unknown dtype 'torch\.float31'"),
        ([0, 4, [1], [1], "torch.float4_e2m1fn_x2"], "unknown dtype"),
        ([0, 4, [1], [1, 1], "torch.float32"], "strides for another shape"),
        ([0, 4, [2], [1], "torch.float32"], "needs 8 bytes, with 4"),
        ([0, 4, [2, 2], [1 << 60, 1], "torch.float32"], "needs "),
        ([1 << 61, 4, [1], [1], "torch.float32"], "the end was lost"),
    ],
    ids=str,
)
def test_refuses_an_index_that_makes_no_sense(
    tmp_path: Path, state: Tensors, entry: list[object], rule: str
) -> None:
    directory = save_dict(tmp_path / "source", state)
    (directory / "tensor_index.json").write_text(json.dumps({"a": entry}))

    with pytest.raises(CorruptCheckpoint, match=rule):
        ServerlessLLMSource(directory)


def test_refuses_a_name_that_a_header_keeps_for_itself(tmp_path: Path) -> None:
    directory = save_dict(tmp_path / "source", {"__metadata__": torch.ones(2)})

    with pytest.raises(CorruptCheckpoint, match="'__metadata__', which can't be stored"):
        open_source(directory)


def test_an_index_alone_is_not_of_this_format(tmp_path: Path) -> None:
    (tmp_path / "tensor_index.json").write_text("{}")

    with pytest.raises(NotACheckpoint, match="holds no safetensors weights"):
        open_source(tmp_path)


def test_a_file_that_changes_meanwhile_is_an_error(tmp_path: Path, state: Tensors) -> None:
    source = open_source(save_dict(tmp_path / "source", state))
    (tmp_path / "source" / "tensor.data_0").write_bytes(b"x" * 4096)

    with pytest.raises(FileChanged):
        pack(source, tmp_path / "packed")

    assert not (tmp_path / "packed").exists()


def test_empty_tensors_are_kept(tmp_path: Path) -> None:
    state = {"empty": torch.empty(0, 4), "also": torch.empty(0, 4), "one": torch.ones(1)}

    packed = pack(open_source(save_dict(tmp_path / "source", state)), tmp_path / "packed")

    assert_same(load(packed.path), state)
