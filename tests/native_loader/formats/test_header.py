from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import safetensors
from hypothesis import given
from hypothesis import strategies as st

from pilotlight.native_loader import Checkpoint, CorruptCheckpoint, LoaderError, PickleRefused
from pilotlight.native_loader.formats.dtypes import ITEM_BITS
from pilotlight.native_loader.formats.header import Header, parse_header
from pilotlight.native_loader.testing import random_tensor, safetensors_bytes

FILE = Path("model.safetensors")


def parse(data: bytes) -> Header:
    """Parse a file's bytes as opening it would, without the file."""
    length = 8 + int.from_bytes(data[:8], "little")
    return parse_header(data[:length], FILE, len(data))


def file_of(header: object, n_data_bytes: int) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + bytes(n_data_bytes)


def tensor(dtype: Any = "F32", shape: Any = (2,), data_offsets: Any = (0, 8)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": data_offsets}


def test_reads_tensors_in_the_order_of_their_bytes() -> None:
    header = parse(
        file_of({"late": tensor(data_offsets=(8, 16)), "early": tensor(), "__metadata__": {}}, 16)
    )

    assert list(header.tensors) == ["early", "late"]
    assert header.tensors["late"].begin == 8
    assert header.tensors["late"].shape == (2,)


def test_reads_metadata_and_padding() -> None:
    header = parse(file_of(b'{"__metadata__": {"format": "pt"}}      ', 0))

    assert header.metadata == {"format": "pt"}
    assert header.data_offset == 8 + 40  # the length, and the header with its spaces


@pytest.mark.parametrize("dtype", sorted(ITEM_BITS))
def test_knows_every_dtype_and_its_size(dtype: str) -> None:
    n_bytes = 8 * ITEM_BITS[dtype] // 8

    header = parse(file_of({"t": tensor(dtype, [2, 4], (0, n_bytes))}, n_bytes))

    assert header.tensors["t"].end == n_bytes


@pytest.mark.parametrize(
    ("header", "n_data_bytes", "rule"),
    [
        ({"t": tensor()}, 7, "holds 7 bytes of data, and its tensors need 8"),
        ({"t": tensor()}, 9, "1 bytes that belong to no tensor"),
        ({"t": tensor(), "u": tensor(data_offsets=(4, 12))}, 12, "overlaps"),
        ({"t": tensor(), "u": tensor(data_offsets=(9, 17))}, 17, "hole of 1 bytes"),
        ({"t": tensor(data_offsets=(8, 0))}, 8, "has bytes 8 to 0"),
        ({"t": tensor(data_offsets=(0, 4))}, 4, "needs 8 bytes and has bytes 0 to 4"),
        ({"t": tensor(data_offsets=(-8, 0))}, 8, "-8 in its data_offsets"),
        ({"t": tensor(data_offsets=(0, 8, 9))}, 8, "3 data_offsets"),
        ({"t": tensor(data_offsets=(0.0, 8))}, 8, "0.0 in its data_offsets"),
        ({"t": tensor(data_offsets="08")}, 8, "no list"),
        ({"t": tensor(shape=[True, 2])}, 8, "True in its shape"),
        ({"t": tensor(shape=[-2])}, 8, "-2 in its shape"),
        ({"t": tensor(shape=[2**40, 2**40, 0], data_offsets=(0, 0))}, 0, "impossible shape"),
        ({"t": tensor(shape=[2**63], data_offsets=(0, 0))}, 0, "in its shape"),
        ({"t": tensor("F4", [3], (0, 2))}, 2, "does not end at a whole byte"),
        ({"t": tensor("F128")}, 8, "unknown dtype 'F128'"),
        ({"t": tensor(["F32"])}, 8, "unknown dtype"),
        ({"t": {"dtype": "F32", "shape": [2]}}, 8, "lacks data_offsets"),
        ({"t": [1]}, 8, "no JSON object"),
        ({"__metadata__": []}, 0, "__metadata__ is no JSON object"),
        ({"__metadata__": {"a": 1}}, 0, "something else than text"),
        ({"__metadata__": {"\ud800": "t"}}, 0, r"__metadata__ holds '\ud800', which is not"),
        ({"__metadata__": {"a": "\udcff"}}, 0, r"__metadata__ holds '\udcff', which is not"),
        ({"\ud800": tensor()}, 8, "not Unicode text"),
        (b'{"t": 1, "t": 2}', 0, "names 't' twice"),
        (b'{"__metadata__": {"a": "1", "a": "2"}}', 0, "names 'a' twice"),
        (b" {}", 0, "does not begin with '{'"),
        (b"[1]", 0, "does not begin with '{'"),
        (b"{\xff}", 0, "not UTF-8"),
        (b'{"t": NaN}', 0, "NaN"),
        (b'{"t": ' + b"[" * 100_000, 0, "nested too deeply"),
        (b'{"t": ' + b"1" * 5_000 + b"}", 0, "no valid JSON"),
        (b"{", 0, "no valid JSON"),
        (b"", 0, "does not begin with '{'"),
    ],
)
def test_refuses_what_breaks_a_rule(header: object, n_data_bytes: int, rule: str) -> None:
    with pytest.raises(CorruptCheckpoint) as caught:
        parse(file_of(header, n_data_bytes))

    assert rule in str(caught.value)
    assert str(caught.value).startswith("model.safetensors: ")
    assert "\n" not in str(caught.value)


def test_names_of_any_length_make_short_messages() -> None:
    with pytest.raises(CorruptCheckpoint) as caught:
        parse(file_of({"x" * 100_000: tensor("F128")}, 8))

    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    ("data", "rule"),
    [
        (b"", "is 0 bytes long, shorter than any header"),
        (b"1234567", "is 7 bytes long"),
        ((1 << 30).to_bytes(8, "little") + b"{}", "claims a header of 1,073,741,824 bytes"),
        ((100).to_bytes(8, "little") + b"{}", "a header of 100 bytes, longer than the file"),
        (b"\xff" * 16, "claims a header of 18,446,744,073,709,551,615 bytes"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "Git LFS pointer"),
    ],
)
def test_refuses_files_that_are_cut_or_something_else(
    tmp_path: Path, data: bytes, rule: str
) -> None:
    (tmp_path / "model.safetensors").write_bytes(data)

    with pytest.raises(CorruptCheckpoint, match=rule):
        Checkpoint.open(tmp_path)


@pytest.mark.parametrize("start", [b"PK\x03\x04", b"\x80\x02}q\x00", b"\x80\x04\x95"])
def test_refuses_a_pickle_under_another_name(tmp_path: Path, start: bytes) -> None:
    (tmp_path / "model.safetensors").write_bytes(start + bytes(100))

    with pytest.raises(PickleRefused):
        Checkpoint.open(tmp_path)


@pytest.mark.parametrize("length", [0x280, 0x380, 0x480, 0x580, 0x10280])
def test_a_header_whose_length_looks_like_a_pickle_is_read(tmp_path: Path, length: int) -> None:
    header = json.dumps({"t": tensor()}).encode().ljust(length)
    (tmp_path / "model.safetensors").write_bytes(file_of(header, 8))

    assert list(Checkpoint.open(tmp_path).tensors) == ["t"]


def describe(checkpoint: Checkpoint, data: bytes) -> list[tuple[str, str, list[int], bytes]]:
    return sorted(
        (name, t.dtype, list(t.shape), data[t.offset : t.offset + t.size_bytes])
        for name, t in checkpoint.tensors.items()
    )


@st.composite
def damaged_files(draw: st.DrawFn) -> bytes:
    """Valid files of which a few bytes were changed, taken out, put in or cut off."""
    rng = random.Random(draw(st.integers(0, 50)))
    names = ["a", "b.weight", "c"][: draw(st.integers(0, 3))]
    dtypes = draw(st.lists(st.sampled_from(sorted(ITEM_BITS)), min_size=3, max_size=3))
    shapes = draw(st.lists(st.sampled_from([(), (0,), (4,), (2, 8)]), min_size=3, max_size=3))
    tensors = {
        name: random_tensor(rng, "U8" if shape == () else dtype, *shape)
        for name, dtype, shape in zip(names, dtypes, shapes, strict=False)
    }
    data = bytearray(safetensors_bytes(tensors, {"format": "pt"} if draw(st.booleans()) else None))
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, max(len(data) - 1, 0)))
        replacement = draw(st.sampled_from([b"", b"0", b"1", b'"', b",", b"9", b"}", b"\xff"]))
        data[at : at + draw(st.integers(0, 1))] = replacement
    return bytes(data[: draw(st.integers(0, len(data)))] if draw(st.booleans()) else data)


@pytest.mark.property
@given(damaged_files())
def test_damage_is_a_typed_error_or_reads_as_safetensors_reads_it(
    tmp_path_factory: pytest.TempPathFactory, data: bytes
) -> None:
    file = tmp_path_factory.getbasetemp() / "damaged.safetensors"
    file.write_bytes(data)
    try:
        checkpoint = Checkpoint.open(file)
    except LoaderError:
        return

    theirs = sorted(
        (name, str(t["dtype"]), list(t["shape"]), bytes(t["data"]))
        for name, t in safetensors.deserialize(data)  # type: ignore[no-untyped-call] # it has no types
    )
    assert describe(checkpoint, data) == theirs
