from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from pilotlight.native_loader import Checkpoint, OutsideRoots
from pilotlight.native_loader.packing.pack import pack
from pilotlight.native_loader.packing.pack_plans import PackPlan
from pilotlight.native_loader.testing import RawTensor, write_checkpoint
from pilotlight.store_node.core import CheckpointCopy
from pilotlight.store_node.protocol import Reference
from pilotlight.store_node.storage import catalogue as catalogue_module
from pilotlight.store_node.storage.catalogue import Catalogue
from pilotlight.store_node.storage.model_facts import ModelFacts

MakeCheckpoint = Callable[..., Path]

LLAMA = {"model_type": "llama", "max_position_embeddings": 512, "torch_dtype": "bfloat16"}


def scanned(*roots: Path) -> Catalogue:
    catalogue = Catalogue(roots)
    catalogue.adopt(catalogue.scan())
    return catalogue


def copies(catalogue: Catalogue) -> dict[str, CheckpointCopy]:
    return {copy.reference: copy for copy in catalogue.copies()}


def test_names_checkpoints_by_their_path_below_the_root(
    tmp_path: Path, make_small_checkpoint: MakeCheckpoint
) -> None:
    make_small_checkpoint(tmp_path / "llama", config=LLAMA)
    make_small_checkpoint(tmp_path / "org" / "qwen")

    found = copies(scanned(tmp_path))

    assert list(found) == ["llama", "org/qwen"]
    llama = found["llama"]
    assert llama.path == str(tmp_path / "llama")
    assert (llama.architecture, llama.context_tokens, llama.dtype) == ("llama", 512, "bfloat16")
    assert llama.execution_files == ("config.json",)
    assert (llama.tensors, llama.n_chunks, llama.problem) == (1, 1, "")
    assert llama.size_bytes == (tmp_path / "llama" / "model.safetensors").stat().st_size


def test_finds_snapshots_of_the_hugging_face_cache(
    tmp_path: Path, make_small_checkpoint: MakeCheckpoint
) -> None:
    model = tmp_path / "hub" / "models--org--tiny"
    blob = make_small_checkpoint(model / "blobs") / "model.safetensors"
    blob = blob.rename(model / "blobs" / "0123abcd")
    snapshot = model / "snapshots" / "main"
    snapshot.mkdir(parents=True)
    (snapshot / "model.safetensors").symlink_to(blob)

    found = copies(scanned(tmp_path))

    assert list(found) == ["hub/models--org--tiny/snapshots/main"]
    assert found["hub/models--org--tiny/snapshots/main"].problem == ""


def test_first_of_two_roots_wins(tmp_path: Path, make_small_checkpoint: MakeCheckpoint) -> None:
    first = make_small_checkpoint(tmp_path / "a" / "llama")
    make_small_checkpoint(tmp_path / "b" / "llama", seed=1)
    make_small_checkpoint(tmp_path / "b" / "qwen")

    found = copies(scanned(tmp_path / "a", tmp_path / "b"))

    assert list(found) == ["llama", "qwen"]
    assert found["llama"].path == str(first)


def test_looks_only_a_few_levels_deep_and_not_into_hidden_directories(
    tmp_path: Path, make_small_checkpoint: MakeCheckpoint
) -> None:
    make_small_checkpoint(tmp_path / "1/2/3/4/5")
    make_small_checkpoint(tmp_path / "one/2/3/4/5/6")
    make_small_checkpoint(tmp_path / ".hidden")

    assert list(copies(scanned(tmp_path))) == ["1/2/3/4/5"]


def test_circular_links_end(tmp_path: Path, make_small_checkpoint: MakeCheckpoint) -> None:
    make_small_checkpoint(tmp_path / "models" / "llama")
    (tmp_path / "models" / "again").symlink_to(tmp_path / "models")
    (tmp_path / "models" / "itself").symlink_to(tmp_path / "models" / "itself")

    assert list(copies(scanned(tmp_path / "models"))) == ["llama"]


def test_links_that_lead_outside_are_listed_but_not_followed(
    tmp_path: Path, make_small_checkpoint: MakeCheckpoint
) -> None:
    make_small_checkpoint(tmp_path / "elsewhere" / "secret")
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "up").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "models" / "direct").symlink_to(tmp_path / "elsewhere" / "secret")

    found = copies(scanned(tmp_path / "models"))

    assert list(found) == ["direct"]
    assert "outside" in found["direct"].problem


def test_broken_checkpoints_are_listed_with_the_reason(
    tmp_path: Path, make_small_checkpoint: MakeCheckpoint
) -> None:
    weights = make_small_checkpoint(tmp_path / "truncated") / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    (tmp_path / "pickled").mkdir()
    (tmp_path / "pickled" / "pytorch_model.bin").write_bytes(b"\x80\x02.")
    (make_small_checkpoint(tmp_path / "odd") / "config.json").write_text("[1, 2")

    found = copies(scanned(tmp_path))

    assert "model.safetensors" in found["truncated"].problem
    assert "pickle" in found["pickled"].problem
    assert "config.json" in found["odd"].problem


def test_checkpoints_in_slices_are_listed_with_the_reason(tmp_path: Path) -> None:
    whole = write_checkpoint(
        tmp_path / "source",
        {
            "model.layers.0.mlp.up_proj.weight": RawTensor(
                dtype="U8", shape=(4, 2), data=b"weights!"
            )
        },
    )
    (tmp_path / "models").mkdir()
    plan = PackPlan.parse("tensor-parallel=2")
    pack(Checkpoint.open(whole), tmp_path / "models" / "sliced", plan=plan)

    found = copies(scanned(tmp_path / "models"))

    assert "is packed in slices for 2 devices" in found["sliced"].problem


def test_directory_whose_name_is_no_utf8_is_left_out_and_told_of_once(
    tmp_path: Path, make_small_checkpoint: MakeCheckpoint
) -> None:
    make_small_checkpoint(tmp_path / "llama")
    make_small_checkpoint(tmp_path / os.fsdecode(b"model\xe9"))

    with capture_logs() as logs:
        catalogue = scanned(tmp_path)
        catalogue.adopt(catalogue.scan())

    assert list(copies(catalogue)) == ["llama"]
    [told] = logs
    assert told["log_level"] == "warning"
    assert told["path"] == rf"{tmp_path}/model\udce9"


def test_files_whose_names_are_no_utf8_harm_nobody(
    tmp_path: Path, make_small_checkpoint: MakeCheckpoint
) -> None:
    odd = os.fsdecode(b"\xe9")
    llama = make_small_checkpoint(tmp_path / "llama", config=LLAMA)
    for name in (f"notes-{odd}.txt", f"tokenizer-{odd}.json"):
        (llama / name).touch()
    weights = make_small_checkpoint(tmp_path / "weights") / "model.safetensors"
    weights.rename(weights.with_name(f"{odd}.safetensors"))
    (tmp_path / "pickles").mkdir()
    for name in ("pytorch_model.bin.index.json", f"{odd}.bin"):
        (tmp_path / "pickles" / name).touch()

    catalogue = scanned(tmp_path)
    found = copies(catalogue)

    assert catalogue.is_current(Reference("llama"))
    assert (found["llama"].execution_files, found["llama"].problem) == (("config.json",), "")
    assert found["weights"].problem.endswith(r"holds '\udce9.safetensors', which is no UTF-8")
    assert r"\udce9.bin: is a pickle" in found["pickles"].problem


def test_defect_that_one_directory_brings_out_is_told_once_and_harms_no_other(
    tmp_path: Path, make_small_checkpoint: MakeCheckpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_small_checkpoint(tmp_path / "llama")
    make_small_checkpoint(tmp_path / "odd")

    def break_on_odd(checkpoint: Checkpoint) -> ModelFacts:
        if checkpoint.path.name == "odd":
            raise ZeroDivisionError("a bug")
        return ModelFacts()

    monkeypatch.setattr(catalogue_module, "read_model_facts", break_on_odd)
    with capture_logs() as logs:
        catalogue = scanned(tmp_path)
        catalogue.adopt(catalogue.scan())

    found = copies(catalogue)
    assert found["llama"].problem == ""
    assert found["odd"].problem == f"{tmp_path}/odd: ZeroDivisionError: a bug"
    [told] = logs
    assert (told["log_level"], told["exc_info"]) == ("error", True)


def test_rescan_opens_only_what_has_changed(
    tmp_path: Path, make_small_checkpoint: MakeCheckpoint
) -> None:
    make_small_checkpoint(tmp_path / "llama")
    make_small_checkpoint(tmp_path / "qwen")
    catalogue = scanned(tmp_path)
    before = {ref: catalogue.find(Reference(ref)) for ref in ("llama", "qwen")}
    make_small_checkpoint(tmp_path / "qwen", seed=1)

    has_changed = catalogue.adopt(catalogue.scan())

    assert has_changed
    assert catalogue.find(Reference("llama")) is before["llama"]
    qwen, old = catalogue.find(Reference("qwen")), before["qwen"]
    assert qwen is not None
    assert old is not None
    # The same headers, so the same layout; other bytes, so another identity.
    assert qwen.copy.layout_id == old.copy.layout_id
    assert qwen.copy.identity != old.copy.identity


def test_rescan_of_the_same_says_so(tmp_path: Path, make_small_checkpoint: MakeCheckpoint) -> None:
    make_small_checkpoint(tmp_path / "llama")
    catalogue = scanned(tmp_path)

    assert not catalogue.adopt(catalogue.scan())


def test_rescan_sees_what_came_and_went(
    tmp_path: Path, make_small_checkpoint: MakeCheckpoint
) -> None:
    gone = make_small_checkpoint(tmp_path / "gone")
    catalogue = scanned(tmp_path)
    gone.rename(tmp_path / "come")

    assert catalogue.adopt(catalogue.scan())
    assert list(copies(catalogue)) == ["come"]


def test_knows_whether_files_are_as_the_scan_saw_them(
    tmp_path: Path, make_small_checkpoint: MakeCheckpoint
) -> None:
    make_small_checkpoint(tmp_path / "llama")
    catalogue = scanned(tmp_path)
    llama = Reference("llama")

    assert catalogue.is_current(llama)
    os.utime(tmp_path / "llama" / "model.safetensors", ns=(1, 1))
    assert not catalogue.is_current(llama)
    assert not catalogue.is_current(Reference("unknown"))


def test_files_on_one_disk_share_a_channel(
    tmp_path: Path, make_small_checkpoint: MakeCheckpoint
) -> None:
    make_small_checkpoint(tmp_path / "a")
    make_small_checkpoint(tmp_path / "b")

    channels = {copy.ssd_channel for copy in scanned(tmp_path).copies()}

    device = tmp_path.stat().st_dev
    [channel] = channels
    assert channel.endswith(f"/disk-{os.major(device)}:{os.minor(device)}")


def test_resolves_execution_files_and_nothing_else(
    tmp_path: Path, make_small_checkpoint: MakeCheckpoint
) -> None:
    make_small_checkpoint(tmp_path / "llama", config=LLAMA)
    catalogue = scanned(tmp_path)
    llama = Reference("llama")

    assert catalogue.resolve_file(llama, "config.json") == tmp_path / "llama" / "config.json"
    for name in ("model.safetensors", "../llama/config.json", "/etc/passwd", ""):
        assert catalogue.resolve_file(llama, name) is None
    assert catalogue.resolve_file(Reference("other"), "config.json") is None


def test_execution_file_that_became_a_link_outside_is_refused(
    tmp_path: Path, make_small_checkpoint: MakeCheckpoint
) -> None:
    models = tmp_path / "models"
    make_small_checkpoint(models / "llama", config=LLAMA)
    catalogue = scanned(models)
    (tmp_path / "secret").write_text("{}")
    (models / "llama" / "config.json").unlink()
    (models / "llama" / "config.json").symlink_to(tmp_path / "secret")

    with pytest.raises(OutsideRoots):
        catalogue.resolve_file(Reference("llama"), "config.json")
