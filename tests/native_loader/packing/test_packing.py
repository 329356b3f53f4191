from __future__ import annotations

import hashlib
import json
import os
import random
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open

from pilotlight.native_loader import (
    CHUNK_BYTES,
    Checkpoint,
    ContentMismatch,
    DestinationExists,
    PackFailed,
    PickleRefused,
)
from pilotlight.native_loader.formats.dtypes import ITEM_BITS, is_aligned
from pilotlight.native_loader.packing.pack import pack
from pilotlight.native_loader.packing.staging import staged
from pilotlight.native_loader.testing import (
    RawTensor,
    random_tensor,
    write_checkpoint,
    write_sharded_checkpoint,
)

Tensors = dict[str, RawTensor]


def contents(directory: Path) -> dict[str, str]:
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(directory.iterdir())
    }


def bytes_of(checkpoint: Checkpoint, name: str) -> bytes:
    entry = checkpoint.tensors[name]
    data = checkpoint.files[entry.file].path.read_bytes()
    return data[entry.offset : entry.offset + entry.size_bytes]


def test_keeps_every_tensor(tmp_path: Path, directory: Path, tensors: Tensors) -> None:
    packed = pack(Checkpoint.open(directory), tmp_path / "packed")

    assert {name: bytes_of(packed, name) for name in packed.tensors} == {
        name: tensor.data for name, tensor in tensors.items()
    }


def test_data_starts_at_a_page_and_tensors_are_aligned(tmp_path: Path, directory: Path) -> None:
    packed = pack(Checkpoint.open(directory), tmp_path / "packed")

    assert packed.files[0].data_offset % 4096 == 0
    entries = packed.tensors.values()
    assert all(is_aligned(entry.offset, entry.dtype) for entry in entries)
    assert all(entry.offset % 256 == 0 for entry in entries if entry.size_bytes % 256 == 0)


def test_equal_sources_give_equal_bytes(tmp_path: Path, directory: Path) -> None:
    (directory / "config.json").write_text('{"a": 1}')
    source = Checkpoint.open(directory)

    pack(source, tmp_path / "one")
    pack(source, tmp_path / "two")

    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    assert contents(tmp_path / "one").keys() == {
        "config.json",
        "manifest.json",
        "model.safetensors",
        "model.safetensors.index.json",
    }


def test_packing_a_packed_checkpoint_changes_nothing(tmp_path: Path, directory: Path) -> None:
    packed = pack(Checkpoint.open(directory), tmp_path / "one")

    pack(packed, tmp_path / "two")

    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_joins_shards(tmp_path: Path, rng: random.Random) -> None:
    shards = {
        "1.safetensors": {"b": random_tensor(rng, "F32", 64), "a": random_tensor(rng, "U8", 3)},
        "2.safetensors": {"c": random_tensor(rng, "F16", 128)},
    }
    source = Checkpoint.open(write_sharded_checkpoint(tmp_path / "source", shards))

    packed = pack(source, tmp_path / "packed")

    assert len(packed.files) == 1
    assert packed.compute_content_id() == source.compute_content_id()
    index = json.loads((tmp_path / "packed" / "model.safetensors.index.json").read_text())
    assert index["weight_map"] == dict.fromkeys("abc", "model.safetensors")
    assert index["metadata"]["total_size"] == 256 + 3 + 256


def test_keeps_declared_aliases(tmp_path: Path, tensors: Tensors) -> None:
    aliases = {"head": "model.embed_tokens.weight"}
    source = Checkpoint.open(write_checkpoint(tmp_path / "source", tensors, aliases))

    packed = pack(source, tmp_path / "packed")

    assert packed.aliases == aliases
    assert json.loads((tmp_path / "packed" / "manifest.json").read_text())["aliases"] == aliases


def test_other_tools_read_it(tmp_path: Path, directory: Path, tensors: Tensors) -> None:
    pack(Checkpoint.open(directory), tmp_path / "packed")

    with safe_open(tmp_path / "packed" / "model.safetensors", framework="numpy") as opened:
        assert set(opened.keys()) == tensors.keys()
        assert opened.get_tensor("scalar").tobytes() == tensors["scalar"].data


def test_checksums_cover_every_chunk(tmp_path: Path, large: Checkpoint) -> None:
    packed = pack(large, tmp_path / "packed")

    verified = packed.verify()

    # Two chunks and a bit, and the header's page in front.
    assert packed.n_chunks == 3
    assert (verified.n_chunks, verified.n_verified, verified.n_learned) == (3, 3, 0)
    assert verified.content_id == packed.content_id
    assert packed.size_bytes > 2 * CHUNK_BYTES


def test_tells_progress(tmp_path: Path, large: Checkpoint) -> None:
    told: list[tuple[int, int]] = []

    packed = pack(large, tmp_path / "packed", progress=lambda *done: told.append(done))

    assert told[-1] == (packed.size_bytes, packed.size_bytes)
    assert told == sorted(told)


def test_refuses_a_destination_that_is_taken(tmp_path: Path, directory: Path) -> None:
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "thesis.tex").write_text("work")

    with pytest.raises(DestinationExists, match="exists already"):
        pack(Checkpoint.open(directory), tmp_path / "taken")
    with pytest.raises(DestinationExists, match="no packed checkpoint, so it is not replaced"):
        pack(Checkpoint.open(directory), tmp_path / "taken", replace=True)

    assert (tmp_path / "taken" / "thesis.tex").read_text() == "work"


def test_takes_an_empty_directory(tmp_path: Path, directory: Path) -> None:
    (tmp_path / "empty").mkdir()

    packed = pack(Checkpoint.open(directory), tmp_path / "empty")

    assert packed.format == "packed"


def test_replaces_a_packed_checkpoint_when_told_to(
    tmp_path: Path, directory: Path, rng: random.Random
) -> None:
    pack(Checkpoint.open(directory), tmp_path / "packed")
    other = write_checkpoint(tmp_path / "other", {"x": random_tensor(rng, "F32", 64)})

    packed = pack(Checkpoint.open(other), tmp_path / "packed", replace=True)

    assert list(packed.tensors) == ["x"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other", "packed", "source"]


def test_an_interrupted_pack_leaves_nothing(tmp_path: Path, directory: Path) -> None:
    def interrupt(done_bytes: int, total_bytes: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pack(Checkpoint.open(directory), tmp_path / "packed", progress=interrupt)

    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_takes_over_what_a_killed_pack_left(tmp_path: Path, directory: Path) -> None:
    left = tmp_path / ".packed.packing"
    left.mkdir()
    (left / "model.safetensors").write_bytes(b"half")

    packed = pack(Checkpoint.open(directory), tmp_path / "packed")

    assert packed.verify().n_chunks == 1
    assert not left.exists()


def test_a_link_in_place_of_the_staging_directory_is_not_followed(
    tmp_path: Path, directory: Path
) -> None:
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "file").write_text("x")
    (tmp_path / ".packed.packing").symlink_to(tmp_path / "precious")

    with pytest.raises(PackFailed, match="the staging directory is a link"):
        pack(Checkpoint.open(directory), tmp_path / "packed")

    assert (tmp_path / "precious" / "file").read_text() == "x"
    assert not (tmp_path / "packed").exists()


def test_two_packs_to_one_place_do_not_mix(tmp_path: Path, directory: Path) -> None:
    with (
        staged(tmp_path / "packed"),
        pytest.raises(PackFailed, match="another process is packing"),
    ):
        pack(Checkpoint.open(directory), tmp_path / "packed")

    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_refuses_early_when_the_disk_is_too_small(
    tmp_path: Path, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = os.statvfs_result((4096, 4096, 10, 0, 0, 10, 10, 10, 0, 255))
    monkeypatch.setattr(os, "statvfs", lambda _: full)

    with pytest.raises(PackFailed, match="the disk has 0 left"):
        pack(Checkpoint.open(directory), tmp_path / "packed")

    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_names_a_parent_that_is_missing(tmp_path: Path, directory: Path) -> None:
    with pytest.raises(PackFailed, match="no such file or directory"):
        pack(Checkpoint.open(directory), tmp_path / "no" / "packed")


def test_notices_damage_in_a_packed_source(
    tmp_path: Path, directory: Path, flip_byte: Callable[[Path, int], None]
) -> None:
    packed = pack(Checkpoint.open(directory), tmp_path / "packed")
    flip_byte(packed.files[0].path, packed.files[0].data_offset)

    with pytest.raises(ContentMismatch):
        pack(Checkpoint.open(tmp_path / "packed"), tmp_path / "again")

    assert not (tmp_path / "again").exists()


def test_pickles_are_not_packed(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x02")

    with pytest.raises(PickleRefused, match="only safetensors"):
        pack(Checkpoint.open(tmp_path), tmp_path / "packed")


@pytest.mark.integration
def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path: Path, large: Checkpoint) -> None:
    limit_bytes = CHUNK_BYTES
    run = subprocess.run(
        [
            sys.executable,
            "-c",
            "from pilotlight.native_loader.commands.pack import pack; pack()",
            str(large.path),
            str(tmp_path / "packed"),
        ],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, limit_bytes)),
        capture_output=True,
        text=True,
        timeout=60,
    )

    assert run.returncode == 1
    assert run.stderr.splitlines()[-1] == (
        f"Error: {tmp_path}/packed: can't be written, and nothing was: file too large"
    )
    assert "Traceback" not in run.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["large"]


@pytest.mark.property
@given(
    st.dictionaries(
        st.sampled_from(["lm_head.w", "x.0.a", "x.1.b", "embed.w", "norm", "bias"]),
        st.tuples(st.sampled_from(sorted(ITEM_BITS)), st.sampled_from([0, 8, 64, 200, 512])),
    )
)
def test_any_tensors_are_kept_without_holes(
    tmp_path_factory: pytest.TempPathFactory, wanted: dict[str, tuple[str, int]]
) -> None:
    rng = random.Random(1)
    tensors = {name: random_tensor(rng, dtype, n) for name, (dtype, n) in wanted.items()}
    directory = tmp_path_factory.mktemp("any")
    source = Checkpoint.open(write_checkpoint(directory / "source", tensors))

    packed = pack(source, directory / "packed")

    assert {name: bytes_of(packed, name) for name in packed.tensors} == {
        name: tensor.data for name, tensor in tensors.items()
    }
    assert all(is_aligned(entry.offset, entry.dtype) for entry in packed.tensors.values())
    assert packed.verify().content_id == source.compute_content_id()
