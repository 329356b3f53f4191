from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from pilotlight.native_loader import CHUNK_BYTES, Checkpoint
from pilotlight.native_loader.commands.inspect import inspect
from pilotlight.native_loader.commands.load import load
from pilotlight.native_loader.commands.pack import pack
from pilotlight.native_loader.commands.verify import verify

VERBS = [pack, inspect, verify, load]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PILOTLIGHT_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def run(verb: click.Command, *arguments: object) -> Result:
    return CliRunner().invoke(verb, [str(argument) for argument in arguments])


@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb.name)
def test_help_shows_an_example(verb: click.Command) -> None:
    result = run(verb, "--help")

    assert result.exit_code == 0
    assert f"pilotlight {verb.name} " in result.stdout


@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb.name)
def test_wrong_usage_is_2(verb: click.Command) -> None:
    assert run(verb).exit_code == 2


@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb.name)
def test_a_path_that_is_no_checkpoint_is_one_line(verb: click.Command, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    arguments = [tmp_path / "empty"] + ([tmp_path / "packed"] if verb is pack else [])

    result = run(verb, *arguments)

    assert result.exit_code == 1
    assert result.stderr == f"Error: {tmp_path}/empty: holds no safetensors weights\n"
    assert result.stdout == ""


def test_packs_and_says_what(tmp_path: Path, directory: Path) -> None:
    result = run(pack, directory, tmp_path / "packed")

    packed = Checkpoint.open(tmp_path / "packed")
    assert result.exit_code == 0
    assert result.stdout.endswith(f", 7 tensors, content id {packed.content_id}\n")


def test_replaces_only_when_forced(tmp_path: Path, directory: Path) -> None:
    run(pack, directory, tmp_path / "packed")

    refused = run(pack, directory, tmp_path / "packed")
    forced = run(pack, directory, tmp_path / "packed", "--force")

    assert (refused.exit_code, forced.exit_code) == (1, 0)
    assert refused.stderr == f"Error: {tmp_path}/packed: exists already\n"


def test_a_pickle_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x02")

    result = run(load, tmp_path)

    assert result.exit_code == 1
    assert result.stderr == (
        f"Error: {tmp_path}/pytorch_model.bin: is a pickle, which is never opened;"
        " only safetensors weights are loaded\n"
    )


@pytest.mark.integration
def test_a_pickle_that_is_broken_is_one_line_when_packed(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x02")

    result = run(pack, tmp_path, tmp_path / "packed")

    assert result.exit_code == 1
    assert result.stderr.startswith(
        f"Error: {tmp_path}/pytorch_model.bin: is no file of plain weights: "
    )
    assert result.stderr.count("\n") == 1


def test_packs_by_a_plan(tmp_path: Path, directory: Path) -> None:
    refused = run(pack, directory, tmp_path / "packed", "--plan", "halves")
    packed = run(pack, directory, tmp_path / "packed", "--plan", "layers=2")

    assert refused.exit_code == 2
    assert "'halves' is no plan: one, tensor-parallel=N or layers=N" in refused.stderr
    assert packed.exit_code == 0
    assert " in 2 partitions, 7 tensors, content id " in packed.stdout


def test_a_plan_that_can_not_be_is_one_line(tmp_path: Path, directory: Path) -> None:
    result = run(pack, directory, tmp_path / "packed", "--plan", "layers=3")

    assert result.exit_code == 1
    assert result.stderr == f"Error: {directory}: has 2 layers, too few for 3 partitions\n"


def test_truncated_weights_are_one_line(directory: Path) -> None:
    file = directory / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1])

    result = run(inspect, directory)

    assert result.exit_code == 1
    assert result.stderr.startswith(f"Error: {file}: holds ")
    assert result.stderr.count("\n") == 1


def test_inspects_for_people(directory: Path) -> None:
    result = run(inspect, directory)

    header, row = result.stdout.splitlines()
    assert header.split()[:3] == ["PATH", "FORMAT", "SIZE"]
    assert "safetensors" in row
    assert "BF16, F16, F32, F64, I64, U8" in row


def test_inspects_for_programs(directory: Path) -> None:
    [row] = json.loads(run(inspect, directory, "-o", "json").stdout)

    checkpoint = Checkpoint.open(directory)
    assert row["size_bytes"] == checkpoint.size_bytes
    assert row["layout_id"] == checkpoint.layout_id
    assert row["tensors"] == 7
    # Only the 8 bytes of the scalar follow the 3 of the mask.
    assert row["unaligned_bytes"] == 8


def test_lists_tensors(directory: Path) -> None:
    rows = json.loads(run(inspect, directory, "--tensors", "-o", "json").stdout)

    assert [row["name"] for row in rows][:2] == ["lm_head.weight", "model.layers.10.w"]
    assert rows[0]["shape"] == [16, 8]
    assert rows[0]["size_bytes"] == 512


def test_verifies_what_it_learned(directory: Path, home: Path) -> None:
    first = run(verify, directory)
    second = run(verify, directory)

    assert first.stdout == f"{directory}: 1 chunks learned, to be verified from now on\n"
    assert second.stdout == f"{directory}: 1 chunks verified\n"
    assert len(list((home / "checksums").iterdir())) == 1


def test_verifying_damage_names_file_and_chunk(
    tmp_path: Path, large: Checkpoint, flip_byte: Callable[[Path, int], None]
) -> None:
    run(pack, large.path, tmp_path / "packed")
    flip_byte(tmp_path / "packed" / "model.safetensors", CHUNK_BYTES)

    result = run(verify, tmp_path / "packed")

    assert result.exit_code == 1
    assert result.stderr.startswith(f"Error: {tmp_path}/packed/model.safetensors: chunk 1 has")
    assert result.stderr.count("\n") == 1


def test_loads_and_says_how_fast(directory: Path) -> None:
    first = run(load, directory)
    second = run(load, directory, "--direct")

    assert first.exit_code == 0
    assert first.stdout.startswith(f"{directory}: ")
    assert first.stdout.endswith("; checksums learned\n")
    assert second.stdout.endswith("; checksums verified\n")
    assert "/s" in second.stdout


def test_a_device_that_is_not_there_is_one_line(directory: Path) -> None:
    result = run(load, directory, "--device", "cuda:0")

    assert result.exit_code == 1
    assert result.stderr.startswith("Error: device 'cuda' is not available")
