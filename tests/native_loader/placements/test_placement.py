from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pilotlight.native_loader import (
    CHUNK_BYTES,
    Checkpoint,
    Chunk,
    SliceRefused,
    TensorEntry,
    TooManyPartitions,
)
from pilotlight.native_loader.formats.dtypes import ITEM_BITS
from pilotlight.native_loader.formats.sliced import SlicedTensor
from pilotlight.native_loader.packing.pack import pack
from pilotlight.native_loader.packing.pack_plans import PackPlan
from pilotlight.native_loader.placements.placement import (
    Placement,
    layer_ranges,
    one_device,
    tensor_parallel,
)
from pilotlight.native_loader.placements.slice_rules import SliceRules
from pilotlight.native_loader.testing import RawTensor, random_tensor, write_checkpoint

DTYPES = sorted(ITEM_BITS)


@dataclass(frozen=True, kw_only=True)
class Laid:
    """Tensors in files cut into chunks of any size, with no file system."""

    tensors: Mapping[str, TensorEntry]
    chunks: Sequence[Chunk]
    files: Sequence[bytes]
    aliases: Mapping[str, str] = field(default_factory=dict[str, str])
    sliced: Mapping[str, SlicedTensor] = field(default_factory=dict[str, SlicedTensor])
    path: Path = Path("laid")
    config: Mapping[str, Any] = field(default_factory=dict[str, Any])

    def model_config(self) -> Mapping[str, Any]:
        return self.config


def lay(
    files: Sequence[Mapping[str, RawTensor]], *, header_bytes: int = 0, chunk_bytes: int = 1 << 20
) -> Laid:
    tensors: dict[str, TensorEntry] = {}
    chunks: list[Chunk] = []
    contents: list[bytes] = []
    for number, held in enumerate(files):
        data = b"h" * header_bytes
        for name, tensor in held.items():
            tensors[name] = TensorEntry(
                file=number,
                offset=len(data),
                size_bytes=len(tensor.data),
                dtype=tensor.dtype,
                shape=tensor.shape,
            )
            data += tensor.data
        contents.append(data)
        chunks.extend(
            Chunk(file=number, offset=offset, length=min(chunk_bytes, len(data) - offset))
            for offset in range(0, len(data), chunk_bytes)
        )
    return Laid(tensors=tensors, chunks=chunks, files=contents)


def carry_out(laid: Laid, placement: Placement) -> list[bytes]:
    """Do the copies, byte by byte; AssertionError where one is not as it must be."""
    memories = [bytearray(b"\xee" * part.size_bytes) for part in placement.partitions]
    written = [bytearray(part.size_bytes) for part in placement.partitions]
    for copy in placement.copies:
        chunk = laid.chunks[copy.chunk]
        data = laid.files[chunk.file][chunk.offset : chunk.offset + chunk.length]
        assert copy.n_rows > 0
        assert copy.length > 0
        if copy.n_rows == 1:
            assert copy.from_stride == copy.to_stride == 0
        for row in range(copy.n_rows):
            begin = copy.from_ + row * copy.from_stride
            to = copy.to + row * copy.to_stride
            assert 0 <= begin <= begin + copy.length <= len(data)
            assert to + copy.length <= len(memories[copy.partition])
            assert not any(written[copy.partition][to : to + copy.length]), "written twice"
            written[copy.partition][to : to + copy.length] = b"\x01" * copy.length
            memories[copy.partition][to : to + copy.length] = data[begin : begin + copy.length]
    for part, mask in zip(placement.partitions, written, strict=True):
        assert sum(mask) == sum(tensor.size_bytes for tensor in part.tensors.values())
    return [bytes(memory) for memory in memories]


def reads_of(laid: Laid, placement: Placement, partition: int) -> Counter[tuple[int, int]]:
    """Count how often each byte of the files is read for one partition."""
    reads: Counter[tuple[int, int]] = Counter()
    for copy in placement.copies:
        if copy.partition == partition:
            chunk = laid.chunks[copy.chunk]
            for row in range(copy.n_rows):
                begin = chunk.offset + copy.from_ + row * copy.from_stride
                reads.update((chunk.file, place) for place in range(begin, begin + copy.length))
    return reads


def bits_of(tensor: RawTensor) -> np.ndarray:
    """Return a tensor's bits, the items' own in the last dimension."""
    bits = np.unpackbits(np.frombuffer(tensor.data, np.uint8), bitorder="little")
    return bits.reshape((*tensor.shape, ITEM_BITS[tensor.dtype]))


def bytes_of(bits: np.ndarray) -> bytes:
    return np.packbits(bits.reshape(-1), bitorder="little").tobytes()


def placed_bytes(placement: Placement, memories: Sequence[bytes], index: int, name: str) -> bytes:
    tensor = placement.partitions[index].tensors[name]
    return memories[index][tensor.offset : tensor.offset + tensor.size_bytes]


def natural(size_bytes: int) -> int:
    return min(256, size_bytes & -size_bytes) or 256


@pytest.fixture
def llama(rng: random.Random) -> dict[str, RawTensor]:
    """Two layers whose matrices divide by two and by four."""
    tensors = {"model.embed_tokens.weight": random_tensor(rng, "BF16", 32, 16)}
    for layer in range(2):
        prefix = f"model.layers.{layer}"
        tensors |= {
            f"{prefix}.input_layernorm.weight": random_tensor(rng, "BF16", 16),
            f"{prefix}.self_attn.q_proj.weight": random_tensor(rng, "BF16", 16, 16),
            f"{prefix}.self_attn.q_proj.bias": random_tensor(rng, "BF16", 16),
            f"{prefix}.self_attn.k_proj.weight": random_tensor(rng, "BF16", 8, 16),
            f"{prefix}.self_attn.v_proj.weight": random_tensor(rng, "BF16", 8, 16),
            f"{prefix}.self_attn.o_proj.weight": random_tensor(rng, "BF16", 16, 16),
            f"{prefix}.self_attn.o_proj.bias": random_tensor(rng, "BF16", 16),
            f"{prefix}.mlp.gate_proj.weight": random_tensor(rng, "BF16", 24, 16),
            f"{prefix}.mlp.down_proj.weight": random_tensor(rng, "BF16", 16, 24),
        }
    tensors["model.norm.weight"] = random_tensor(rng, "BF16", 16)
    tensors["lm_head.weight"] = random_tensor(rng, "BF16", 32, 16)
    return tensors


def test_one_device_holds_every_tensor(tmp_path: Path, directory: Path) -> None:
    checkpoint = Checkpoint.open(directory)

    placement = one_device(checkpoint, "cuda:1")

    (partition,) = placement.partitions
    assert partition.device == "cuda:1"
    assert partition.tensors.keys() == checkpoint.tensors.keys()
    for name, tensor in partition.tensors.items():
        entry = checkpoint.tensors[name]
        assert (tensor.dtype, tensor.shape, tensor.size_bytes) == (
            entry.dtype,
            entry.shape,
            entry.size_bytes,
        )


def test_a_packed_file_is_one_copy_for_each_chunk(tmp_path: Path, large: Checkpoint) -> None:
    packed = pack(large, tmp_path / "packed")

    placement = one_device(packed)

    assert [copy.chunk for copy in placement.copies] == [0, 1, 2]
    # The header's page is not copied.
    assert placement.copies[0].from_ == 4096
    assert placement.copies[1].length == CHUNK_BYTES


def test_neighbours_stay_together_where_that_aligns_them(rng: random.Random) -> None:
    laid = lay(
        [
            {
                "a": random_tensor(rng, "F32", 64),
                "b": random_tensor(rng, "F32", 128),
                "scalar": random_tensor(rng, "F32"),
                "scalars": random_tensor(rng, "U8", 2),
                "c": random_tensor(rng, "F32", 64),
            }
        ],
        header_bytes=72,
    )

    placement = one_device(laid)

    # a, b, the scalar and what is as small follow each other; c would not be aligned.
    assert [(copy.from_, copy.to, copy.length) for copy in placement.copies] == [
        (72, 0, 256 + 512 + 4 + 2),
        (72 + 774, 1024, 256),
    ]
    assert placement.partitions[0].size_bytes == 1280


def test_a_chunk_without_wanted_bytes_is_in_no_copy(rng: random.Random) -> None:
    laid = lay([{"a": random_tensor(rng, "U8", 256)}], header_bytes=2048, chunk_bytes=1024)

    assert {copy.chunk for copy in one_device(laid).copies} == {2}


def test_nothing_at_all_is_an_empty_partition() -> None:
    placement = one_device(lay([{}]))

    assert placement.copies == ()
    assert placement.partitions[0].size_bytes == 0


@pytest.mark.property
@given(
    st.lists(
        st.lists(st.tuples(st.sampled_from(DTYPES), st.sampled_from([0, 8, 24, 64, 200, 512]))),
        min_size=1,
        max_size=3,
    ),
    st.sampled_from([0, 8, 72, 4096]),
    st.sampled_from([100, 256, 1000, 4096]),
)
def test_one_device_gets_exactly_the_bytes(
    wanted: list[list[tuple[str, int]]], header_bytes: int, chunk_bytes: int
) -> None:
    rng = random.Random(3)
    files = [
        {f"{file}.{i}": random_tensor(rng, dtype, n) for i, (dtype, n) in enumerate(held)}
        for file, held in enumerate(wanted)
    ]
    laid = lay(files, header_bytes=header_bytes, chunk_bytes=chunk_bytes)

    placement = one_device(laid)

    memories = carry_out(laid, placement)
    for name, tensor in (item for held in files for item in held.items()):
        assert placed_bytes(placement, memories, 0, name) == tensor.data
        placed = placement.partitions[0].tensors[name]
        assert placed.offset % natural(placed.size_bytes) == 0
    assert max(reads_of(laid, placement, 0).values(), default=1) == 1
    assert list(placement.copies) == sorted(placement.copies, key=lambda copy: copy.chunk)


def expected_slice(name: str, tensor: RawTensor, index: int, n: int) -> bytes:
    """Return what numpy cuts by the rules for a Llama."""
    bits = bits_of(tensor)
    if name.endswith("norm.weight") or name.endswith("o_proj.bias"):
        return tensor.data
    axis = 1 if "o_proj" in name or "down_proj" in name else 0
    return bytes_of(np.split(bits, n, axis=axis)[index])


@pytest.mark.parametrize("degree", [1, 2, 4, 8])
@pytest.mark.parametrize("chunk_bytes", [37, 100, 512, 1 << 20])
def test_tensor_parallel_slices_are_those_of_numpy(
    llama: dict[str, RawTensor], degree: int, chunk_bytes: int
) -> None:
    laid = lay([llama], header_bytes=40, chunk_bytes=chunk_bytes)

    placement = tensor_parallel(laid, degree)

    memories = carry_out(laid, placement)
    for index in range(degree):
        assert placement.partitions[index].tensors.keys() == llama.keys()
        for name, tensor in llama.items():
            got = placed_bytes(placement, memories, index, name)
            assert got == expected_slice(name, tensor, index, degree), name
            placed = placement.partitions[index].tensors[name]
            assert placed.offset % natural(placed.size_bytes) == 0
        assert max(reads_of(laid, placement, index).values()) == 1


def test_every_byte_goes_somewhere_and_only_replicated_ones_twice(
    llama: dict[str, RawTensor],
) -> None:
    laid = lay([llama], chunk_bytes=100)

    placement = tensor_parallel(laid, 2)

    reads = reads_of(laid, placement, 0) + reads_of(laid, placement, 1)
    replicated = {name for name in llama if "norm" in name or name.endswith("o_proj.bias")}
    for name, entry in laid.tensors.items():
        counts = {reads[0, place] for place in range(entry.offset, entry.offset + entry.size_bytes)}
        assert counts == {2 if name in replicated else 1}, name


@pytest.mark.parametrize("degree", [1, 2, 4, 8])
def test_every_chunk_is_read_once_whatever_the_degree(
    llama: dict[str, RawTensor], degree: int
) -> None:
    laid = lay([llama], header_bytes=250, chunk_bytes=100)

    placement = tensor_parallel(laid, degree)

    # The first two chunks hold nothing but the header.
    assert {copy.chunk for copy in placement.copies} == set(range(2, len(laid.chunks)))


def test_whole_rows_of_a_chunk_are_one_copy(rng: random.Random) -> None:
    # 8 rows of 8 bytes; chunks of 20 bytes end within the third row, and in its first half.
    tensor = random_tensor(rng, "U8", 8, 8)
    laid = lay([{"x.o_proj.weight": tensor}], chunk_bytes=20)

    placement = tensor_parallel(laid, 2)

    of_second = [copy for copy in placement.copies if copy.partition == 1]
    # Chunk 0 has columns 4 to 7 of rows 0 and 1; chunk 1 begins at column 4 of row 2.
    assert [(copy.chunk, copy.from_, copy.length, copy.n_rows) for copy in of_second[:2]] == [
        (0, 4, 4, 2),
        (1, 0, 4, 3),
    ]


@pytest.mark.property
@given(
    dtype=st.sampled_from(DTYPES),
    rows=st.integers(1, 5),
    columns=st.integers(1, 5),
    degree=st.sampled_from([1, 2, 3]),
    chunk_bytes=st.integers(5, 300),
    module=st.sampled_from(["q_proj", "o_proj", "mlp.gate_up_proj"]),
    header_bytes=st.integers(0, 40),
)
def test_any_matrix_is_cut_as_numpy_cuts_it(
    dtype: str,
    rows: int,
    columns: int,
    degree: int,
    chunk_bytes: int,
    module: str,
    header_bytes: int,
) -> None:
    # Twice eight times, so that fused parts come out even, and sub-byte items too.
    shape = (rows * degree * 2, columns * degree * 8)
    tensor = random_tensor(random.Random(5), dtype, *shape)
    laid = lay([{f"x.{module}.weight": tensor}], header_bytes=header_bytes, chunk_bytes=chunk_bytes)

    placement = tensor_parallel(laid, degree)

    memories = carry_out(laid, placement)
    bits = bits_of(tensor)
    parts = np.split(bits, 2) if module == "mlp.gate_up_proj" else [bits]
    axis = 1 if module == "o_proj" else 0
    for index in range(degree):
        expected = np.concatenate([np.split(part, degree, axis=axis)[index] for part in parts])
        assert placed_bytes(placement, memories, index, f"x.{module}.weight") == bytes_of(expected)
        (placed,) = placement.partitions[index].tensors.values()
        assert placed.shape == expected.shape[:-1]


def test_experts_that_are_stored_together_are_cut_by_their_own_rows(rng: random.Random) -> None:
    tensor = random_tensor(rng, "BF16", 3, 8, 4)
    laid = lay([{"model.layers.0.mlp.experts.down_proj": tensor}], chunk_bytes=50)
    rules = SliceRules.of_plan({"layers.*.mlp.experts.down_proj": "rowwise"}, {})

    placement = tensor_parallel(laid, 2, rules)

    memories = carry_out(laid, placement)
    name = "model.layers.0.mlp.experts.down_proj"
    expected = np.split(bits_of(tensor), 2, axis=2)[1]
    assert placed_bytes(placement, memories, 1, name) == bytes_of(expected)


def test_names_the_tensor_and_the_rule_that_do_not_come_out_even(rng: random.Random) -> None:
    laid = lay([{"a.q_proj.weight": random_tensor(rng, "F32", 6, 2)}])

    with pytest.raises(
        SliceRefused,
        match=r"'a\.q_proj\.weight' .*: column: dimension 0 of \[6, 2\] does not divide by 4",
    ) as caught:
        tensor_parallel(laid, 4)

    assert caught.value.tensor == "a.q_proj.weight"


@pytest.mark.parametrize(
    ("dtype", "columns"), [("F4", 2), ("F6_E2M3", 4), ("F6_E3M2", 20)], ids=str
)
def test_a_slice_that_would_end_within_a_byte_is_refused(
    rng: random.Random, dtype: str, columns: int
) -> None:
    tensor = random_tensor(rng, dtype, 4, columns)
    laid = lay([{"a.o_proj.weight": tensor}])

    with pytest.raises(SliceRefused, match=f"in {dtype} would not be of whole bytes"):
        tensor_parallel(laid, 2 if dtype == "F4" else 4)


def test_devices_have_their_names(llama: dict[str, RawTensor]) -> None:
    laid = lay([llama])

    placement = tensor_parallel(laid, 2, devices=["cuda:0", "cuda:2"])

    assert [partition.device for partition in placement.partitions] == ["cuda:0", "cuda:2"]
    with pytest.raises(ValueError, match="2 partitions for 1 devices"):
        tensor_parallel(laid, 2, devices=["cuda:0"])
    with pytest.raises(ValueError, match="0 partitions"):
        layer_ranges(laid, 0)


def test_layers_are_split_into_ranges_of_about_equal_size(llama: dict[str, RawTensor]) -> None:
    laid = lay([llama], chunk_bytes=100)

    placement = layer_ranges(laid, 2)

    memories = carry_out(laid, placement)
    first, second = placement.partitions
    assert not first.tensors.keys() & second.tensors.keys()
    assert "model.embed_tokens.weight" in first.tensors
    assert {"model.norm.weight", "lm_head.weight"} < second.tensors.keys()
    assert all("layers.0" in name for name in first.tensors if "layers" in name)
    for index, partition in enumerate(placement.partitions):
        for name in partition.tensors:
            assert placed_bytes(placement, memories, index, name) == llama[name].data


def test_a_tied_head_is_on_the_last_device_too(llama: dict[str, RawTensor]) -> None:
    del llama["lm_head.weight"]
    laid = lay([llama])
    tied = Laid(
        tensors=laid.tensors,
        chunks=laid.chunks,
        files=laid.files,
        aliases={"lm_head.weight": "model.embed_tokens.weight"},
    )

    first, second = layer_ranges(tied, 2).partitions

    assert "model.embed_tokens.weight" in first.tensors
    assert "model.embed_tokens.weight" in second.tensors


def test_more_ranges_than_layers_are_refused(llama: dict[str, RawTensor]) -> None:
    with pytest.raises(TooManyPartitions, match="has 2 layers, too few for 3 partitions"):
        layer_ranges(lay([llama]), 3)


@pytest.mark.property
@given(st.lists(st.integers(0, 9), min_size=1, max_size=12), st.integers(1, 12))
def test_no_other_split_of_layers_has_a_smaller_largest_range(sizes: list[int], n: int) -> None:
    n = min(n, len(sizes))
    tensors = {
        f"h.{layer}.w": RawTensor(dtype="U8", shape=(size,), data=bytes(size))
        for layer, size in enumerate(sizes)
    }
    laid = lay([tensors])

    partitions = layer_ranges(laid, n).partitions

    held = [[int(name.split(".")[1]) for name in part.tensors] for part in partitions]
    assert all(held)
    assert [layer for layers in held for layer in sorted(layers)] == list(range(len(sizes)))
    largest = max(sum(sizes[layer] for layer in layers) for layers in held)
    assert largest == smallest_largest(sizes, n)


def smallest_largest(sizes: list[int], n: int) -> int:
    """Return the least largest sum, by trying every split."""
    if n == 1:
        return sum(sizes)
    return min(
        max(sum(sizes[:end]), smallest_largest(sizes[end:], n - 1))
        for end in range(1, len(sizes) - n + 2)
    )


def test_a_real_checkpoint_with_many_layers_is_placed_at_once(
    tmp_path: Path, rng: random.Random
) -> None:
    tensors = {
        f"model.layers.{layer}.mlp.{kind}_proj.weight": random_tensor(rng, "U8", 64, 64)
        for layer in range(40)
        for kind in ("gate", "up", "down")
    }
    checkpoint = Checkpoint.open(write_checkpoint(tmp_path / "many", tensors))

    placement = tensor_parallel(checkpoint, 8)

    # 2 slices of a row-wise cut matrix never touch, those of the others may.
    assert len(placement.copies) <= 40 * 3 * 8
    assert sum(copy.size_bytes for copy in placement.copies) == 40 * 3 * 64 * 64


def test_tensor_parallel_goes_by_the_heads_of_the_config(rng: random.Random) -> None:
    laid = lay([{"model.layers.0.self_attn.k_proj.weight": random_tensor(rng, "F32", 16, 8)}])
    config = {"num_attention_heads": 8, "num_key_value_heads": 1}

    with pytest.raises(SliceRefused, match="1 key/value heads do not divide by 2"):
        tensor_parallel(replace(laid, config=config), 2)


def test_tensor_parallel_cuts_a_directory_as_pack_does(tmp_path: Path, rng: random.Random) -> None:
    name = "model.layers.0.self_attn.qkv_proj.weight"
    source = write_checkpoint(tmp_path / "phi", {name: random_tensor(rng, "F32", 32, 8)})
    config = '{"model_type": "phi3", "num_attention_heads": 4, "num_key_value_heads": 2}'
    (source / "config.json").write_text(config)
    checkpoint = Checkpoint.open(source)

    packed = pack(checkpoint, tmp_path / "packed", plan=PackPlan.parse("tensor-parallel=2"))

    placement = tensor_parallel(checkpoint, 2)
    contents = Laid(
        tensors=checkpoint.tensors,
        chunks=checkpoint.chunks,
        files=[file.path.read_bytes() for file in checkpoint.files],
    )
    for number, memory in enumerate(carry_out(contents, placement)):
        placed = placement.partitions[number].tensors[name]
        entry = packed.partition(number).tensors[name]
        stored = packed.partition(number).files[entry.file].path.read_bytes()
        held = memory[placed.offset : placed.offset + placed.size_bytes]
        assert held == stored[entry.offset : entry.offset + entry.size_bytes]
