from __future__ import annotations

import json
import os
import random
from pathlib import Path
from unittest.mock import Mock

import pytest

from pilotlight.native_loader import (
    CHUNK_BYTES,
    Checkpoint,
    CorruptCheckpoint,
    NotACheckpoint,
    OutsideRoots,
    PickleRefused,
    UnsupportedVersion,
)
from pilotlight.native_loader.formats.shards import layout_id_of
from pilotlight.native_loader.packing.pack import pack
from pilotlight.native_loader.testing import (
    RawTensor,
    random_tensor,
    safetensors_bytes,
    write_checkpoint,
    write_sharded_checkpoint,
)

Tensors = dict[str, RawTensor]


def test_opens_a_single_file(directory: Path, tensors: Tensors) -> None:
    checkpoint = Checkpoint.open(directory)

    assert checkpoint.format == "safetensors"
    assert checkpoint.path == directory
    assert checkpoint.tensors.keys() == tensors.keys()
    data = (directory / "model.safetensors").read_bytes()
    for name, tensor in tensors.items():
        entry = checkpoint.tensors[name]
        assert (entry.dtype, entry.shape) == (tensor.dtype, tensor.shape)
        assert data[entry.offset : entry.offset + entry.size_bytes] == tensor.data
    assert checkpoint.size_bytes == len(data)
    assert checkpoint.content_id == ""


def test_opens_a_file_by_its_own_path(directory: Path) -> None:
    file = (directory / "model.safetensors").rename(directory / "adapter.safetensors")
    (directory / "other.safetensors").write_bytes(b"not looked at")

    checkpoint = Checkpoint.open(file)

    assert [file.path.name for file in checkpoint.files] == ["adapter.safetensors"]
    assert checkpoint.path == directory


def test_opens_shards_by_their_index(tmp_path: Path, rng: random.Random) -> None:
    shards = {
        "model-00001-of-00002.safetensors": {"a": random_tensor(rng, "F32", 3)},
        "model-00002-of-00002.safetensors": {
            "b": random_tensor(rng, "F32", 4),
            "c": random_tensor(rng, "I8", 1),
        },
    }

    checkpoint = Checkpoint.open(write_sharded_checkpoint(tmp_path, shards))

    assert [file.path.name for file in checkpoint.files] == list(shards)
    assert [checkpoint.tensors[name].file for name in "abc"] == [0, 1, 1]
    assert [chunk.file for chunk in checkpoint.chunks] == [0, 1]


def test_has_the_headers_of_shards_fetched_all_at_once(
    tmp_path: Path, rng: random.Random, monkeypatch: pytest.MonkeyPatch
) -> None:
    shards = {f"{i}.safetensors": {f"w{i}": random_tensor(rng, "F32", 2)} for i in range(3)}
    directory = write_sharded_checkpoint(tmp_path, shards)
    calls = Mock()
    calls.fetch.side_effect = os.posix_fadvise
    calls.read.side_effect = os.pread
    monkeypatch.setattr(os, "posix_fadvise", calls.fetch)
    monkeypatch.setattr(os, "pread", calls.read)

    Checkpoint.open(directory)

    names = [name for name, _, _ in calls.mock_calls]
    assert names == ["fetch"] * 3 + ["read"] * 3


def test_cuts_each_file_into_chunks(large: Checkpoint) -> None:
    size_bytes = large.files[0].size_bytes

    assert large.n_chunks == 3
    assert [chunk.offset for chunk in large.chunks] == [0, CHUNK_BYTES, 2 * CHUNK_BYTES]
    assert large.chunks[2].length == size_bytes - 2 * CHUNK_BYTES
    assert large.chunks[2].number == 2


def test_finds_execution_files_and_nothing_else(directory: Path) -> None:
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "merges.txt"):
        (directory / name).write_text("{}")
    (directory / "README.md").write_text("no")
    (directory / "pytorch_model.bin").write_text("no")

    assert Checkpoint.open(directory).execution_files == (
        "config.json",
        "merges.txt",
        "tokenizer.json",
        "tokenizer_config.json",
    )


def test_reads_declared_aliases(tmp_path: Path, tensors: Tensors) -> None:
    metadata = {
        "format": "pt",
        "head.weight": "model.embed_tokens.weight",
        "mask": "scalar",
        "note": "no tensor has this name",
    }

    checkpoint = Checkpoint.open(write_checkpoint(tmp_path / "aliased", tensors, metadata))

    # mask is stored itself, so its entry declares nothing.
    assert checkpoint.aliases == {"head.weight": "model.embed_tokens.weight"}


def test_equal_tensors_are_no_aliases(tmp_path: Path, rng: random.Random) -> None:
    same = random_tensor(rng, "F32", 8)

    checkpoint = Checkpoint.open(write_checkpoint(tmp_path, {"a": same, "b": same}))

    assert checkpoint.aliases == {}
    assert checkpoint.tensors.keys() == {"a", "b"}


def test_layout_id_tells_layouts_apart_but_not_weights(
    tmp_path: Path, tensors: Tensors, rng: random.Random
) -> None:
    other_weights = {
        name: random_tensor(rng, tensor.dtype, *tensor.shape) for name, tensor in tensors.items()
    }
    other_order = dict(reversed(tensors.items()))

    layouts = [
        Checkpoint.open(write_checkpoint(tmp_path / str(i), each)).layout_id
        for i, each in enumerate([tensors, other_weights, other_order])
    ]

    assert layouts[0] == layouts[1]
    assert layouts[0] != layouts[2]


def test_content_id_is_the_same_for_every_layout(
    tmp_path: Path, tensors: Tensors, directory: Path
) -> None:
    names = list(tensors)
    sharded = write_sharded_checkpoint(
        tmp_path / "sharded",
        {
            "model-00001-of-00002.safetensors": {name: tensors[name] for name in names[3:]},
            "model-00002-of-00002.safetensors": {name: tensors[name] for name in names[:3]},
        },
    )
    packed = pack(Checkpoint.open(directory), tmp_path / "packed")

    ids = {Checkpoint.open(path).compute_content_id() for path in (directory, sharded)}

    assert ids == {packed.content_id}
    assert packed.compute_content_id() == packed.content_id


def test_content_id_tells_weights_names_dtypes_and_shapes_apart(
    tmp_path: Path, rng: random.Random
) -> None:
    tensor = random_tensor(rng, "F32", 2, 2)
    variants = [
        {"a": tensor},
        {"b": tensor},
        {"a": RawTensor(dtype="I32", shape=(2, 2), data=tensor.data)},
        {"a": RawTensor(dtype="F32", shape=(4,), data=tensor.data)},
        {"a": RawTensor(dtype="F32", shape=(2, 2), data=bytes(16))},
    ]

    ids = {
        Checkpoint.open(write_checkpoint(tmp_path / str(i), each)).compute_content_id()
        for i, each in enumerate(variants)
    }

    assert len(ids) == len(variants)


@pytest.mark.parametrize(
    ("name", "rule"), [("missing", "does not exist"), ("note.txt", "neither a directory nor")]
)
def test_says_why_a_path_is_no_checkpoint(tmp_path: Path, name: str, rule: str) -> None:
    (tmp_path / "note.txt").write_text("hello")

    with pytest.raises(NotACheckpoint, match=rule):
        Checkpoint.open(tmp_path / name)


def test_an_empty_directory_is_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(NotACheckpoint, match="holds no safetensors weights"):
        Checkpoint.open(tmp_path)


def test_several_files_without_index_are_no_checkpoint(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / f"{name}.safetensors").write_bytes(safetensors_bytes({}))

    with pytest.raises(NotACheckpoint, match=r"holds 2 safetensors files and no model\."):
        Checkpoint.open(tmp_path)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "consolidated.00.pth"])
def test_never_opens_a_pickle(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"\x80\x02")

    with pytest.raises(PickleRefused, match="only safetensors weights are loaded"):
        Checkpoint.open(tmp_path)
    with pytest.raises(PickleRefused):
        Checkpoint.open(tmp_path / name)


def test_an_index_that_names_a_pickle_is_refused(tmp_path: Path) -> None:
    index = {"weight_map": {"a": "pytorch_model-00001.bin"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))

    with pytest.raises(PickleRefused):
        Checkpoint.open(tmp_path)


@pytest.mark.parametrize(
    ("index", "rule"),
    [
        ("{", "no valid JSON"),
        ('{"weight_map": []}', "has no weight_map"),
        ('{"weight_map": {}}', "has no weight_map"),
        ('{"weight_map": {"a": 1}}', "something else than a file name"),
        ('{"weight_map": {"a": "../x.safetensors"}}', "no plain file name"),
        ('{"weight_map": {"a": "/x.safetensors"}}', "no plain file name"),
        (r'{"weight_map": {"a": "\ud800.safetensors"}}', "no plain file name"),
        (r'{"weight_map": {"a": "\udcff.safetensors"}}', "no plain file name"),
        ('{"weight_map": {"a": "config.json"}}', "no safetensors file"),
        ('{"weight_map": {"a": "gone.safetensors"}}', "'gone.safetensors', which is missing"),
        ('{"weight_map": {"b": "one.safetensors"}}', "holds tensor 'b', which it does not"),
        ('{"weight_map": {"a": "one.safetensors", "a": "x"}}', "names 'a' twice"),
    ],
)
def test_refuses_an_index_that_makes_no_sense(
    tmp_path: Path, rng: random.Random, index: str, rule: str
) -> None:
    data = safetensors_bytes({"a": random_tensor(rng, "F32", 1)})
    (tmp_path / "one.safetensors").write_bytes(data)
    (tmp_path / "model.safetensors.index.json").write_text(index)

    with pytest.raises(CorruptCheckpoint, match=rule):
        Checkpoint.open(tmp_path)


def test_refuses_a_tensor_that_two_files_hold(tmp_path: Path, rng: random.Random) -> None:
    tensor = random_tensor(rng, "F32", 1)
    write_sharded_checkpoint(tmp_path, {"1.safetensors": {"a": tensor, "b": tensor}})
    (tmp_path / "2.safetensors").write_bytes(safetensors_bytes({"a": tensor, "c": tensor}))
    index = {"weight_map": {"b": "1.safetensors", "c": "2.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))

    with pytest.raises(CorruptCheckpoint, match=r"'a', which 1\.safetensors holds too"):
        Checkpoint.open(tmp_path)


@pytest.mark.parametrize(
    "name", ["model.safetensors", "model.safetensors.index.json", "manifest.json"]
)
def test_refuses_a_fifo_without_waiting_for_a_writer(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / name)

    with pytest.raises(CorruptCheckpoint, match="no regular file"):
        Checkpoint.open(tmp_path)


def cache_snapshot(root: Path, data: bytes) -> Path:
    """Make what the Hugging Face cache makes: a snapshot of links to blobs."""
    (root / "blobs").mkdir(parents=True)
    (root / "blobs" / "0123").write_bytes(data)
    snapshot = root / "snapshots" / "main"
    snapshot.mkdir(parents=True)
    (snapshot / "model.safetensors").symlink_to("../../blobs/0123")
    return snapshot


def test_follows_links_that_stay_inside_the_roots(tmp_path: Path, tensors: Tensors) -> None:
    snapshot = cache_snapshot(tmp_path / "cache", safetensors_bytes(tensors))

    checkpoint = Checkpoint.open(snapshot, roots=[tmp_path / "other", tmp_path / "cache"])

    assert checkpoint.tensors.keys() == tensors.keys()


def test_refuses_links_that_leave_the_roots(tmp_path: Path, tensors: Tensors) -> None:
    snapshot = cache_snapshot(tmp_path / "cache", safetensors_bytes(tensors))
    root = tmp_path / "cache" / "snapshots"

    with pytest.raises(OutsideRoots, match="leads outside"):
        Checkpoint.open(snapshot, roots=[root])


def test_refuses_an_execution_file_that_leaves_the_roots(tmp_path: Path, directory: Path) -> None:
    (tmp_path / "secret").write_text("{}")
    (directory / "config.json").symlink_to(tmp_path / "secret")

    with pytest.raises(OutsideRoots):
        Checkpoint.open(directory, roots=[directory])


@pytest.mark.parametrize("name", ["manifest.json", "model.safetensors.index.json"])
def test_refuses_a_manifest_or_index_that_leaves_the_roots(
    tmp_path: Path, tensors: Tensors, name: str
) -> None:
    root = write_sharded_checkpoint(tmp_path / "root", {"1.safetensors": tensors})
    (tmp_path / "elsewhere").write_text("{}")
    (root / name).unlink(missing_ok=True)
    (root / name).symlink_to(tmp_path / "elsewhere")

    with pytest.raises(OutsideRoots, match=name):
        Checkpoint.open(root, roots=[root])


def test_refuses_a_path_beside_the_roots(tmp_path: Path, directory: Path) -> None:
    with pytest.raises(OutsideRoots):
        Checkpoint.open(directory, roots=[tmp_path / "sour"])
    with pytest.raises(OutsideRoots):
        Checkpoint.open(directory / ".." / "elsewhere", roots=[directory])


def test_names_a_link_that_leads_nowhere(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").symlink_to("gone")

    with pytest.raises(CorruptCheckpoint, match=r"'model\.safetensors', which is missing"):
        Checkpoint.open(tmp_path)


def test_opens_a_packed_checkpoint(tmp_path: Path, directory: Path, tensors: Tensors) -> None:
    pack(Checkpoint.open(directory), tmp_path / "packed")

    checkpoint = Checkpoint.open(tmp_path / "packed")

    assert checkpoint.format == "packed"
    assert checkpoint.tensors.keys() == tensors.keys()
    assert len(checkpoint.content_id) == 64
    assert checkpoint.checksums is not None
    assert len(checkpoint.checksums) == checkpoint.n_chunks


def test_another_tools_manifest_is_not_ours(directory: Path) -> None:
    for text in ('{"version": "1.0"}', "[]", '{"format": {"a": 1}}'):
        (directory / "manifest.json").write_text(text)

        assert Checkpoint.open(directory).format == "safetensors"


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"layout_id": "0" * 64}, "was not written for the weight files beside it"),
        ({"content_id": "short"}, "is no manifest"),
        ({"chunk_bytes": 4096}, "has chunks of 4,096 bytes"),
        ({"tensors": {}}, "was not written for the weight files beside it"),
        ({"partitions": []}, "names no weight files"),
        ({"version": "x"}, "is no manifest"),
    ],
)
def test_refuses_a_manifest_that_was_changed(
    tmp_path: Path, directory: Path, change: dict[str, object], rule: str
) -> None:
    pack(Checkpoint.open(directory), tmp_path / "packed")
    file = tmp_path / "packed" / "manifest.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))

    with pytest.raises(CorruptCheckpoint, match=rule):
        Checkpoint.open(tmp_path / "packed")


def test_refuses_a_manifest_of_nothing(tmp_path: Path, directory: Path) -> None:
    pack(Checkpoint.open(directory), tmp_path / "packed")
    file = tmp_path / "packed" / "manifest.json"
    nothing = {"partitions": [], "tensors": {}, "layout_id": layout_id_of("packed", [], [])}
    file.write_text(json.dumps(json.loads(file.read_text()) | nothing))

    with pytest.raises(CorruptCheckpoint, match=r"manifest\.json: names no weight files$"):
        Checkpoint.open(tmp_path / "packed")


def test_refuses_a_manifest_that_was_cut(tmp_path: Path, directory: Path) -> None:
    pack(Checkpoint.open(directory), tmp_path / "packed")
    file = tmp_path / "packed" / "manifest.json"
    file.write_bytes(file.read_bytes()[:100])

    with pytest.raises(CorruptCheckpoint, match="is no manifest"):
        Checkpoint.open(tmp_path / "packed")


def test_says_that_a_newer_release_packed_it(tmp_path: Path, directory: Path) -> None:
    (directory / "manifest.json").write_text('{"format": "pilotlight-packed", "version": 3}')

    with pytest.raises(UnsupportedVersion, match="version 3, and this release reads up to 2"):
        Checkpoint.open(directory)


def test_a_path_to_no_regular_file_is_said_to_be_one(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "model.safetensors")

    for path in (tmp_path / "model.safetensors", Path("/dev/null")):
        with pytest.raises(NotACheckpoint, match="is no directory and no regular file"):
            Checkpoint.open(path)
