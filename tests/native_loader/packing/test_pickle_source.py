from __future__ import annotations

import errno
import io
import json
import os
import pickle
import random
import re
import subprocess
import sys
import tarfile
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from threading import Thread
from typing import Any, ClassVar

import pytest
import torch
from safetensors.torch import load_file

from pilotlight.native_loader import (
    Checkpoint,
    CorruptCheckpoint,
    FileChanged,
    MemoryRefused,
    NotACheckpoint,
    PickleRefused,
    load,
)
from pilotlight.native_loader.packing.pack import pack
from pilotlight.native_loader.packing.pickle_messages import BYTES, END, FAILED, TENSORS
from pilotlight.native_loader.packing.pickle_reader import serve
from pilotlight.native_loader.packing.pickle_source import PickleSource
from pilotlight.native_loader.packing.source_kinds import open_source

Tensors = dict[str, torch.Tensor]

# A process that imports torch takes a second, so most tests have its work done by a thread.


def in_process(test: Callable[..., None]) -> Callable[..., None]:
    """Mark a test that has pickles read by a real process."""
    pytest.mark.usefixtures("_process")(test)
    pytest.mark.integration(test)
    return test


class ThreadInstead:
    """Looks like the process that reads pickles, and is a thread of this one."""

    answers: ClassVar[list[bytes]] = []
    """Said one after another by those that are started, whatever they are asked."""

    def __init__(self, *_: object, **__: object) -> None:
        their_requests, our_requests = os.pipe()
        our_answers, their_answers = os.pipe()
        self.stdin = os.fdopen(our_requests, "wb")
        self.stdout = os.fdopen(our_answers, "rb")
        self._thread = Thread(target=self._serve, args=(their_requests, their_answers))
        self._thread.start()

    def __enter__(self) -> ThreadInstead:
        return self

    def __exit__(self, *_: object) -> None:
        self.stdout.close()
        self.stdin.close()
        self._thread.join()

    def kill(self) -> None:
        """Do nothing: it ends when nobody listens."""

    def wait(self, timeout: float) -> int:
        return 1

    def _serve(self, requests: int, answers: int) -> None:
        try:
            with open(requests, "rb") as asked, open(answers, "wb") as answered:
                if self.answers:
                    answered.write(self.answers.pop(0))
                    return
                serve(asked, answered, lambda paths: None)
        except BrokenPipeError:
            # As the process does, which dies of it.
            pass


@pytest.fixture(autouse=True)
def _thread(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if "_process" not in request.fixturenames:
        monkeypatch.setattr(
            "pilotlight.native_loader.packing.pickle_source.subprocess.Popen", ThreadInstead
        )


@pytest.fixture
def _process() -> None:
    """Have pickles read by a real process."""


@pytest.fixture
def weights() -> Tensors:
    """Return tensors of every kind that a pickle and a safetensors file both know."""
    generator = torch.Generator().manual_seed(1)
    base = torch.randn(6, 8, generator=generator)
    return {
        "model.embed_tokens.weight": base,
        "model.layers.0.half": base.half(),
        "model.layers.0.brain": base.bfloat16(),
        "model.layers.0.eight": base.to(torch.float8_e4m3fn),
        "model.layers.0.mask": base > 0,
        "model.layers.0.complex": torch.complex(base, -base),
        "model.layers.0.unsigned": torch.tensor([1, 65535], dtype=torch.uint16),
        "scalar": torch.tensor(7, dtype=torch.int64),
        "empty": torch.empty(0, 3),
    }


def equal(one: torch.Tensor, other: torch.Tensor) -> bool:
    return (
        one.dtype == other.dtype
        and one.shape == other.shape
        and one.contiguous().reshape(-1).view(torch.uint8).tolist()
        == other.contiguous().reshape(-1).view(torch.uint8).tolist()
    )


def assert_same(found: Tensors, expected: Tensors) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert equal(found[name], tensor), name


def saved(directory: Path, state: object, name: str = "pytorch_model.bin", **options: Any) -> Path:
    directory.mkdir(exist_ok=True)
    torch.save(state, directory / name, **options)
    return directory


@pytest.mark.parametrize("is_zip", [True, False], ids=["zip", "legacy"])
def test_packs_pickled_weights(tmp_path: Path, weights: Tensors, is_zip: bool) -> None:
    if not is_zip:
        # The format is older than these, and PyTorch can't read what it writes of them.
        del weights["model.layers.0.eight"], weights["model.layers.0.unsigned"]
    directory = saved(tmp_path / "source", weights, _use_new_zipfile_serialization=is_zip)
    (directory / "config.json").write_text("{}")

    packed = pack(open_source(directory), tmp_path / "packed")

    assert_same(load(packed.path), weights)
    assert_same(load_file(packed.files[0].path), weights)
    assert packed.execution_files == ("config.json",)
    assert packed.verify().content_id == packed.content_id


@in_process
def test_a_process_of_its_own_reads_them(tmp_path: Path, weights: Tensors) -> None:
    directory = saved(tmp_path / "source", weights)

    packed = pack(open_source(directory), tmp_path / "packed")

    assert_same(load(packed.path), weights)


def test_loading_still_refuses_them(tmp_path: Path, weights: Tensors) -> None:
    directory = saved(tmp_path / "source", weights)

    for path in (directory, directory / "pytorch_model.bin"):
        with pytest.raises(PickleRefused):
            Checkpoint.open(path)


def test_packs_shards_by_their_index(tmp_path: Path, weights: Tensors) -> None:
    names = list(weights)
    shards = {"a.bin": names[:4], "b.bin": names[4:]}
    for file, held in shards.items():
        saved(tmp_path / "source", {name: weights[name] for name in held}, file)
    index = {"weight_map": {name: file for file, held in shards.items() for name in held}}
    (tmp_path / "source" / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    saved(tmp_path / "source", {"lr": 1}, "training_args.bin")

    packed = pack(open_source(tmp_path / "source"), tmp_path / "packed")

    assert_same(load(packed.path), weights)


@pytest.mark.parametrize("name", ["weights.pt", "consolidated.00.pth", "last.ckpt"])
def test_packs_a_single_file_of_any_name(tmp_path: Path, weights: Tensors, name: str) -> None:
    directory = saved(tmp_path / "source", weights, name)
    saved(directory, {"step": 1}, "optimizer.pt")

    by_directory = pack(open_source(directory), tmp_path / "one")
    by_file = pack(open_source(directory / name), tmp_path / "two")

    assert by_directory.content_id == by_file.content_id


def test_several_files_without_an_index_are_refused(tmp_path: Path, weights: Tensors) -> None:
    saved(tmp_path / "source", weights, "a.pt")
    saved(tmp_path / "source", weights, "b.pt")

    with pytest.raises(NotACheckpoint, match=r"holds 2 pickles and no pytorch_model\.bin\.index"):
        open_source(tmp_path / "source")


def test_two_files_with_one_tensor_are_refused(tmp_path: Path, weights: Tensors) -> None:
    for name in ("a.bin", "b.bin"):
        saved(tmp_path / "source", weights, name)
    index = {"weight_map": {"x": "a.bin", "y": "b.bin"}}
    (tmp_path / "source" / "pytorch_model.bin.index.json").write_text(json.dumps(index))

    with pytest.raises(
        CorruptCheckpoint, match=r"b\.bin: holds tensor 'model\.embed.* which a\.bin holds too"
    ):
        open_source(tmp_path / "source")


@pytest.mark.parametrize(
    ("weight_map", "rule"),
    [
        ({}, "has no weight_map"),
        ({"a": 1}, "something else than a file name"),
        ({"a": "../b.bin"}, "no plain file name"),
        ({"a": "b.txt"}, "is no pickle"),
    ],
)
def test_refuses_an_index_that_makes_no_sense(
    tmp_path: Path, weight_map: dict[str, object], rule: str
) -> None:
    index = json.dumps({"weight_map": weight_map})
    (tmp_path / "pytorch_model.bin.index.json").write_text(index)
    (tmp_path / "a.bin").write_bytes(b"")

    with pytest.raises(CorruptCheckpoint, match=rule):
        PickleSource(tmp_path)


def test_views_are_stored_as_what_they_show(tmp_path: Path) -> None:
    base = torch.arange(4 * 6, dtype=torch.float32).reshape(4, 6)
    views = {
        "whole": base,
        "transposed": base.T,
        "later_rows": base[2:],
        "every_other_column": base[:, ::2],
        "one_column": base[:, 3],
        "expanded": base[:1].expand(3, 6),
        "conjugated": torch.complex(base, base).conj(),
        "negated": torch.complex(base, base).conj().imag,
    }

    packed = pack(open_source(saved(tmp_path / "source", views)), tmp_path / "packed")

    assert packed.aliases == {}
    assert_same(load(packed.path), {name: view.clone() for name, view in views.items()})


def test_a_large_view_is_put_in_order_piece_by_piece(tmp_path: Path) -> None:
    base = torch.arange(3 * 1_500_000, dtype=torch.int64).reshape(3, 1_500_000)
    views = {"rows": base.T, "row": base[:, ::2][:1]}

    packed = pack(open_source(saved(tmp_path / "source", views)), tmp_path / "packed")

    tensors = load(packed.path)
    assert torch.equal(tensors["rows"], base.T)
    assert torch.equal(tensors["row"], base[:1, ::2])


def test_shared_memory_becomes_a_declared_alias(tmp_path: Path) -> None:
    embedding = torch.randn(8, 4)
    state = OrderedDict(
        {
            "model.embed_tokens.weight": embedding,
            "model.norm.weight": embedding[0],
            "lm_head.weight": embedding,
            "same_bytes": embedding.clone(),
        }
    )

    packed = pack(open_source(saved(tmp_path / "source", state)), tmp_path / "packed")

    assert packed.aliases == {"lm_head.weight": "model.embed_tokens.weight"}
    assert "same_bytes" in packed.tensors
    assert_same(load(packed.path), dict(state))


def test_a_head_that_the_config_calls_its_own_is_stored(tmp_path: Path) -> None:
    embedding = torch.randn(8, 4)
    state = {"model.embed_tokens.weight": embedding, "lm_head.weight": embedding}
    directory = saved(tmp_path / "source", state)
    (directory / "config.json").write_text('{"tie_word_embeddings": false}')

    packed = pack(open_source(directory), tmp_path / "packed")

    assert packed.aliases == {}
    assert_same(load(packed.path), state)


@pytest.mark.parametrize("name", ["state_dict", "model", "module", "model_state_dict"])
def test_a_state_dict_among_other_things_is_found(
    tmp_path: Path, weights: Tensors, name: str
) -> None:
    outer = {"epoch": 3, name: weights, "optimizer": {"lr": 0.1}, "note": "x"}

    packed = pack(open_source(saved(tmp_path / "source", outer)), tmp_path / "packed")

    assert_same(load(packed.path), weights)


@pytest.mark.parametrize(
    ("state", "rule"),
    [
        ({"a": torch.ones(1), "epoch": 3}, "holds 'epoch', a int and no tensor"),
        ({"model": {"a": torch.ones(1), "b": None}}, "holds 'model.b', a NoneType and no tensor"),
        ({"model": {}, "state_dict": {}}, "holds several state dicts: 'state_dict', 'model'"),
        ({"model": {"a": torch.ones(1)}, "b": torch.ones(1)}, "holds 'model', a dict and no"),
        ({3: torch.ones(1)}, "holds something under 3, which is no name"),
        ([torch.ones(1)], "holds a list, and no state dict"),
        (torch.ones(1), "holds a Tensor, and no state dict"),
        ({"a": torch.ones(2, dtype=torch.complex128)}, "torch.complex128 tensor"),
        ({"a": torch.eye(2).to_sparse()}, "layout torch.sparse_coo, which safetensors can't"),
        ({"a": torch.empty(2, device="meta")}, "on meta"),
        ({"__metadata__": torch.ones(1)}, "name '__metadata__', which can't be stored"),
    ],
    ids=str,
)
def test_names_what_is_no_tensor(tmp_path: Path, state: object, rule: str) -> None:
    directory = saved(tmp_path / "source", state)

    with pytest.raises(CorruptCheckpoint, match=re.escape(rule)) as caught:
        open_source(directory)

    assert caught.value.file == directory / "pytorch_model.bin"


class Hostile:
    """A pickle that leaves a mark where it is opened without care."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.mark}",)


@pytest.mark.parametrize("is_zip", [True, False], ids=["zip", "legacy"])
def test_code_in_a_pickle_is_not_run(tmp_path: Path, is_zip: bool) -> None:
    state = {"a": torch.ones(1), "b": Hostile(tmp_path / "mark")}
    directory = saved(tmp_path / "source", state, _use_new_zipfile_serialization=is_zip)

    with pytest.raises(CorruptCheckpoint, match=r"is no file of plain weights: .*posix"):
        open_source(directory)

    assert not (tmp_path / "mark").exists()


@in_process
def test_code_is_not_run_because_of_the_environment_either(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    state = {"a": torch.ones(1), "b": Hostile(tmp_path / "mark")}

    with pytest.raises(CorruptCheckpoint, match="is no file of plain weights"):
        open_source(saved(tmp_path / "source", state))

    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x80\x02",
        b"PK\x03\x04" + b"\0" * 100,
        b"\x80\x02]" + b"h\xff" * 10,
        b"ustar" * 200,
        pickle.dumps({"a": 1}),
        # A memo index of four billion, and a string of as many bytes.
        b"\x80\x02Nr\xff\xff\xff\xff.",
        b"\x80\x04\x8d" + (1 << 40).to_bytes(8, "little") + b"x.",
    ],
    ids=range(8),
)
def test_broken_pickles_are_one_error(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(data)

    with pytest.raises(CorruptCheckpoint) as caught:
        open_source(tmp_path)

    assert "\n" not in str(caught.value)


def test_a_truncated_file_is_an_error(tmp_path: Path, weights: Tensors) -> None:
    directory = saved(tmp_path / "source", weights)
    file = directory / "pytorch_model.bin"
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])

    with pytest.raises(CorruptCheckpoint, match="is no file of plain weights"):
        open_source(directory)


def test_any_damage_is_an_error_or_harmless(tmp_path: Path, weights: Tensors) -> None:
    directory = saved(tmp_path / "source", weights)
    file = directory / "pytorch_model.bin"
    whole = file.read_bytes()
    rng = random.Random(3)
    # The pickle itself lies in the first kilobytes.
    for _ in range(6):
        damaged = bytearray(whole)
        for _ in range(3):
            damaged[rng.randrange(64, 1500)] ^= 1 << rng.randrange(8)
        file.write_bytes(damaged)

        try:
            source = open_source(directory)
        except CorruptCheckpoint:
            continue
        assert source.tensors


def test_the_oldest_format_is_refused_by_its_name(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "pytorch_model.bin", "w") as archive:
        for name in ("storages", "tensors", "pickle"):
            info = tarfile.TarInfo(name)
            info.size = 1
            archive.addfile(info, io.BytesIO(b"x"))

    with pytest.raises(
        CorruptCheckpoint, match=r"plain weights: Cannot use .* legacy \.tar format"
    ):
        open_source(tmp_path)


def listing(tensors: Mapping[str, Mapping[str, Any]]) -> bytes:
    body = json.dumps({"tensors": tensors}).encode()
    return TENSORS + len(body).to_bytes(8, "little") + body


ONE = {"file": 0, "dtype": "U8", "shape": [2], "view": 0}


@pytest.mark.parametrize(
    ("answers", "rule"),
    [
        (b"", "can't be read as weights"),
        (b"T\xff\xff\xff\xff\xff\xff\xff\xff", "can't be read as weights"),
        (TENSORS + (2).to_bytes(8, "little") + b"{}", "gives no list of tensors"),
        (END + bytes(8), "gives no list of tensors"),
        (FAILED + (2).to_bytes(8, "little") + b"{}", "can't be read as weights"),
        (listing({"a": ONE | {"dtype": "X9"}}), "holds tensor 'a', which is none"),
        (listing({"a": ONE | {"shape": [-1]}}), "holds tensor 'a', which is none"),
        (listing({"a": ONE | {"dtype": "F4", "shape": [1]}}), "does not end at a whole byte"),
    ],
    ids=range(8),
)
def test_what_the_reader_says_is_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answers: bytes, rule: str
) -> None:
    saved(tmp_path, {"a": torch.ones(1)})
    monkeypatch.setattr(ThreadInstead, "answers", [answers])

    with pytest.raises(CorruptCheckpoint, match=rule):
        open_source(tmp_path)


@pytest.mark.parametrize("said", [b"\1", b"\1\2\3"], ids=["fewer", "more"])
def test_a_reader_that_gives_other_bytes_than_it_listed_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: bytes
) -> None:
    saved(tmp_path / "source", {"a": torch.ones(1)})
    first = listing({"a": ONE})
    then = BYTES + len(said).to_bytes(8, "little") + said + END + bytes(8)
    monkeypatch.setattr(ThreadInstead, "answers", [first, first + then])

    with pytest.raises(CorruptCheckpoint, match="gives other bytes of tensor 'a'"):
        pack(open_source(tmp_path / "source"), tmp_path / "packed")

    assert not (tmp_path / "packed").exists()


def test_a_view_of_more_bytes_than_any_disk_has_is_refused_early(tmp_path: Path) -> None:
    vast = torch.zeros(1).expand(1 << 40, 1 << 10)
    source = open_source(saved(tmp_path / "source", {"vast": vast}))

    with pytest.raises(OSError, match="and the disk has"):
        pack(source, tmp_path / "packed")

    assert not (tmp_path / "packed").exists()


def test_a_file_that_is_replaced_meanwhile_is_an_error(tmp_path: Path, weights: Tensors) -> None:
    directory = saved(tmp_path / "source", weights)
    source = open_source(directory)
    saved(directory, {"a": torch.ones(1)})

    with pytest.raises(FileChanged):
        pack(source, tmp_path / "packed")

    assert not (tmp_path / "packed").exists()


def rezipped(directory: Path, compression: int, **replaced: bytes) -> Path:
    """Write a saved file's records anew, some of them with other bytes."""
    file = directory / "pytorch_model.bin"
    with zipfile.ZipFile(file) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, data in records.items():
            archive.writestr(name, replaced.get(name.rsplit("/", 1)[1], data))
    return directory


def test_a_file_that_was_zipped_anew_without_compression_is_packed(
    tmp_path: Path, weights: Tensors
) -> None:
    directory = rezipped(saved(tmp_path / "source", weights), zipfile.ZIP_STORED)

    packed = pack(open_source(directory), tmp_path / "packed")

    assert_same(load(packed.path), weights)


def test_compressed_records_are_refused(tmp_path: Path) -> None:
    directory = saved(tmp_path / "source", {"a": torch.arange(10.0)})
    rezipped(directory, zipfile.ZIP_DEFLATED)

    with pytest.raises(CorruptCheckpoint, match="record 'pytorch_model/data/0' compressed"):
        open_source(directory)


@pytest.mark.parametrize("record", ["0", "1"])
@pytest.mark.parametrize("n_bytes", [8, 48])
def test_a_record_of_another_length_than_the_pickle_says_is_refused(
    tmp_path: Path, record: str, n_bytes: int
) -> None:
    state = {"a": torch.arange(10.0), "b": torch.arange(10.0) + 100}
    directory = saved(tmp_path / "source", state)
    rezipped(directory, zipfile.ZIP_STORED, **{record: bytes(n_bytes)})

    with pytest.raises(
        CorruptCheckpoint, match=f"data/{record}' of {n_bytes} bytes, where its pickle says 40"
    ):
        open_source(directory)


def test_a_damaged_record_is_an_error_and_nothing_is_left(tmp_path: Path) -> None:
    state = {"a": torch.arange(10.0), "b": torch.arange(10.0) + 100}
    directory = saved(tmp_path / "source", state)
    file = directory / "pytorch_model.bin"
    data = bytearray(file.read_bytes())
    data[data.find(state["b"].numpy().tobytes()) + 2] ^= 1
    file.write_bytes(data)

    with pytest.raises(CorruptCheckpoint, match="record 'pytorch_model/data/1', which is damaged"):
        pack(open_source(directory), tmp_path / "packed")

    assert not (tmp_path / "packed").exists()


def test_a_file_that_was_saved_without_checksums_is_packed(
    tmp_path: Path, weights: Tensors
) -> None:
    torch.serialization.set_crc32_options(compute_crc32=False)
    try:
        directory = saved(tmp_path / "source", weights)
    finally:
        torch.serialization.set_crc32_options(compute_crc32=True)

    packed = pack(open_source(directory), tmp_path / "packed")

    assert_same(load(packed.path), weights)


def test_a_name_that_is_no_text_is_named(tmp_path: Path) -> None:
    directory = saved(tmp_path / "source", {"a\udc80": torch.ones(1)})

    with pytest.raises(CorruptCheckpoint, match=r"of the name 'a\\udc80', which can't be stored"):
        open_source(directory)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_a_nested_tensor_is_said_to_be_one(tmp_path: Path) -> None:
    nested = torch.nested.nested_tensor([torch.ones(1), torch.ones(2)])

    with pytest.raises(CorruptCheckpoint, match=r"holds 'a', a torch\.float32 .* layout nested"):
        open_source(saved(tmp_path / "source", {"a": nested}))


def test_where_no_process_can_be_had_that_is_a_typed_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    monkeypatch.setattr("pilotlight.native_loader.packing.pickle_source.subprocess.Popen", refuse)

    with pytest.raises(MemoryRefused, match="the process that reads pickles: Resource temp"):
        open_source(saved(tmp_path / "source", {"a": torch.ones(1)}))


def test_a_zip_that_is_no_pytorch_file_is_an_error(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "pytorch_model.bin", "w") as archive:
        archive.writestr("data.pkl", b"x")

    with pytest.raises(CorruptCheckpoint):
        open_source(tmp_path)


def test_without_torch_that_is_what_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x02")
    monkeypatch.setattr("pilotlight.native_loader.packing.pickle_source.find_spec", lambda _: None)

    with pytest.raises(NotACheckpoint, match="PyTorch, which reads that, is not installed"):
        open_source(tmp_path)


@in_process
def test_a_reader_that_dies_is_an_error(
    tmp_path: Path, weights: Tensors, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = saved(tmp_path / "source", weights)
    dying = tmp_path / "python"
    dying.write_text("#!/bin/sh\nhead -c 1 > /dev/null\nkill -SEGV $$\n")
    dying.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(dying))

    with pytest.raises(CorruptCheckpoint, match="the process that did so ended by SIGSEGV"):
        open_source(directory)


_MEASURE = """
import re, sys
from pilotlight.native_loader.packing.pack import pack
from pilotlight.native_loader.packing.source_kinds import open_source
pack(open_source(sys.argv[1]), sys.argv[2])
print(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1])
"""


@in_process
def test_memory_does_not_grow_with_the_checkpoint(tmp_path: Path) -> None:
    peak_kib: list[int] = []
    for factor in (1, 4):
        state = {f"model.layers.{i}.w": torch.zeros(factor << 20, 8) for i in range(2)}
        directory = saved(tmp_path / f"source-{factor}", state)
        done = subprocess.run(
            [sys.executable, "-c", _MEASURE, directory, tmp_path / f"packed-{factor}"],
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
        peak_kib.append(int(done.stdout))

    # 64 MiB and 256 MiB were packed.
    assert peak_kib[1] - peak_kib[0] < 8 << 10
