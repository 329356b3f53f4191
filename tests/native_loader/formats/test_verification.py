from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from pilotlight.native_loader import (
    CHUNK_BYTES,
    Checkpoint,
    ChecksumLedger,
    ChecksumMismatch,
    ContentMismatch,
    CorruptCheckpoint,
    FileChanged,
    ReadFailed,
)
from pilotlight.native_loader.packing.pack import pack
from pilotlight.native_loader.packing.pack_plans import PackPlan
from pilotlight.native_loader.testing import random_tensor, write_checkpoint

NAME = "model.layers.0.mlp.down_proj.weight"
Flip = Callable[[Path, int], None]


def test_learns_first_and_verifies_then(tmp_path: Path, large: Checkpoint) -> None:
    ledger = ChecksumLedger(tmp_path / "ledger")

    first = large.verify(ledger)
    second = large.verify(ledger)

    assert (first.n_verified, first.n_learned) == (0, 3)
    assert (second.n_verified, second.n_learned) == (3, 0)
    assert first.content_id == second.content_id == ""


def test_names_file_and_chunk_that_differ(tmp_path: Path, large: Checkpoint) -> None:
    ledger = ChecksumLedger(tmp_path / "ledger")
    large.verify(ledger)
    known = ledger.find(large.files[0])
    assert known is not None
    ledger.learn(large.files[0], [known[0], known[1] ^ 1, known[2]])

    with pytest.raises(ChecksumMismatch, match=r"model\.safetensors: chunk 1 has") as caught:
        large.verify(ledger)

    assert caught.value.chunk == 1
    assert caught.value.file == large.files[0].path


@pytest.mark.parametrize(("offset", "chunk"), [(-1, 2), (CHUNK_BYTES, 1), (CHUNK_BYTES - 1, 0)])
def test_finds_one_flipped_bit_of_a_packed_checkpoint(
    tmp_path: Path, large: Checkpoint, flip_byte: Flip, offset: int, chunk: int
) -> None:
    packed = pack(large, tmp_path / "packed")
    file = packed.files[0]
    flip_byte(file.path, offset % file.size_bytes)

    with pytest.raises(ChecksumMismatch) as caught:
        Checkpoint.open(packed.path).verify()

    assert caught.value.chunk == chunk


def test_finds_a_content_id_that_is_not_that_of_the_bytes(tmp_path: Path, directory: Path) -> None:
    pack(Checkpoint.open(directory), tmp_path / "packed")
    manifest = tmp_path / "packed" / "manifest.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"content_id": "0" * 64}))

    with pytest.raises(ContentMismatch, match="its manifest says 0000"):
        Checkpoint.open(tmp_path / "packed").verify()


@pytest.mark.parametrize("degree", [1, 2])
@pytest.mark.parametrize(
    ("key", "value", "rule"),
    [
        ("sha256", "0" * 64, f"has another sha256 of tensor '{NAME}' than its file"),
        ("dtype", "BF16", "has another dtype of tensor"),
        ("shape", [4, 64], "has another shape of tensor"),
        ("parts", [{"partition": 0, "offset": 0, "size_bytes": 512}], "has another place of"),
    ],
)
def test_finds_what_a_manifest_says_wrongly_of_a_tensor(
    tmp_path: Path, rng: random.Random, degree: int, key: str, value: object, rule: str
) -> None:
    source = write_checkpoint(tmp_path / "plain", {NAME: random_tensor(rng, "F16", 16, 16)})
    plan = PackPlan.parse(f"tensor-parallel={degree}") if degree > 1 else PackPlan()
    pack(Checkpoint.open(source), tmp_path / "packed", plan=plan)
    manifest = tmp_path / "packed" / "manifest.json"
    document = json.loads(manifest.read_text())
    document["tensors"][NAME][key] = value
    manifest.write_text(json.dumps(document))

    # What is sliced is compared already when it is opened, all but the digests.
    with pytest.raises(
        CorruptCheckpoint,
        match=rule if degree == 1 or key == "sha256" else "that are no such slices",
    ):
        Checkpoint.open(tmp_path / "packed").verify()


@pytest.mark.parametrize(
    ("key", "value", "rule"),
    [
        ("aliases", {"a": "scalar"}, "has other aliases than the weight files"),
        ("size_bytes", 5, "has other sizes than the weight files"),
    ],
)
def test_finds_what_a_manifest_says_wrongly_of_files(
    tmp_path: Path, directory: Path, key: str, value: object, rule: str
) -> None:
    pack(Checkpoint.open(directory), tmp_path / "packed")
    manifest = tmp_path / "packed" / "manifest.json"
    document = json.loads(manifest.read_text())
    (document if key in document else document["partitions"][0])[key] = value
    manifest.write_text(json.dumps(document))

    with pytest.raises(CorruptCheckpoint, match=rule):
        Checkpoint.open(tmp_path / "packed").verify()


def test_notices_files_that_changed_since_they_were_opened(
    directory: Path, flip_byte: Flip
) -> None:
    checkpoint = Checkpoint.open(directory)
    flip_byte(directory / "model.safetensors", 900)

    with pytest.raises(FileChanged, match="written to or had its attributes changed"):
        checkpoint.verify()


def test_names_a_file_that_is_gone(directory: Path) -> None:
    checkpoint = Checkpoint.open(directory)
    (directory / "model.safetensors").unlink()

    with pytest.raises(ReadFailed, match="No such file"):
        checkpoint.verify()


def test_tells_progress(large: Checkpoint) -> None:
    told: list[tuple[int, int]] = []

    large.verify(progress=lambda *done: told.append(done))

    assert told[-1] == (large.size_bytes, large.size_bytes)
