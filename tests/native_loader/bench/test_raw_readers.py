"""The bench's own readers, compiled and run."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from pilotlight.native_loader.bench.ablations import STEPS
from pilotlight.native_loader.bench.fio_reader import fio_command, loaded_from
from pilotlight.native_loader.bench.raw_readers import MIB, NoCompiler, RawReader, compiled
from pilotlight.process.bench.errors import BenchFailed

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def tools(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tools")


def answer(command: list[str], word: str = "go\n") -> list[dict[str, Any]]:
    done = subprocess.run(
        command, input=word, capture_output=True, text=True, check=False, timeout=60
    )
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    for name, size in (("a", 3 * MIB + 12_345), ("b", 77), ("c", 2 * MIB), ("d", 0)):
        (tmp_path / name).write_bytes(b"x" * size)
    return sorted(tmp_path.iterdir())


@pytest.mark.parametrize("is_each", [False, True])
@pytest.mark.parametrize("threads", [1, 4])
def test_a_reader_reads_every_file(
    is_each: bool, threads: int, files: list[Path], tools: Path
) -> None:
    program = compiled("raw_reader.c", tools)
    reader = RawReader(program=program, threads=threads, block_bytes=MIB)

    ready, loaded = answer(reader.command(files, is_each=is_each))

    assert ready == {"type": "Ready"}
    assert loaded["size_bytes"] == 5 * MIB + 12_345 + 77
    assert loaded["load_seconds"] > 0
    assert len(loaded["each_seconds"]) == (len(files) if is_each else 0)


def test_a_reader_that_gets_no_word_ends(files: list[Path], tools: Path) -> None:
    reader = RawReader(program=compiled("raw_reader.c", tools), threads=2, block_bytes=MIB)

    assert answer(reader.command(files), word="") == [{"type": "Ready"}]


def test_a_file_that_is_not_there_is_a_mishap(tmp_path: Path, tools: Path) -> None:
    reader = RawReader(program=compiled("raw_reader.c", tools), threads=2, block_bytes=MIB)

    (said,) = answer(reader.command([tmp_path / "missing"]))

    assert said["mishap"].endswith("missing: No such file or directory")


@pytest.mark.parametrize("step", STEPS)
def test_every_step_of_the_ablation_runs(step: str, tmp_path: Path, tools: Path) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"x" * (33 * MIB + 5))
    ranges = [f"100:{MIB}", f"{MIB + 100}:5"]

    ready, loaded = answer([str(compiled("ablation.c", tools)), step, str(file), *ranges])

    assert ready == {"type": "Ready"}
    assert loaded["size_bytes"] == 33 * MIB + 5


def test_a_range_beyond_the_file_is_a_mishap(tmp_path: Path, tools: Path) -> None:
    (tmp_path / "short").write_bytes(b"x" * 100)
    program = str(compiled("ablation.c", tools))

    said = answer([program, "by-tensor", str(tmp_path / "short"), "90:11"])

    assert "mishap" in said[-1]


def test_a_program_is_compiled_once(tools: Path) -> None:
    program = compiled("raw_reader.c", tools)
    before = program.stat().st_mtime_ns

    assert compiled("raw_reader.c", tools) == program
    assert program.stat().st_mtime_ns == before
    assert not list(tools.glob("*.partial"))


def test_without_a_compiler_it_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(NoCompiler, match="no C compiler"):
        compiled("raw_reader.c", tmp_path / "tools")


def test_a_compiler_that_fails_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiler = tmp_path / "cc"
    compiler.write_text("#!/bin/sh\necho broken >&2\nexit 1\n")
    compiler.chmod(0o755)
    monkeypatch.setattr(shutil, "which", lambda name: str(compiler))

    with pytest.raises(NoCompiler, match=r"does not compile raw_reader\.c: broken"):
        compiled("raw_reader.c", tmp_path / "tools")


def test_fio_s_report_is_understood() -> None:
    job = {"error": 0, "read": {"bw_bytes": 2_000_000}, "usr_cpu": 1.0, "sys_cpu": 4.0}

    loaded = loaded_from({"jobs": [job]}, size_bytes=1_000_000, n_read=990_000)

    assert (loaded.load_seconds, loaded.bytes_read) == (0.5, 990_000)
    assert loaded.cpu_seconds == pytest.approx(0.025)
    with pytest.raises(BenchFailed, match="error 5"):
        loaded_from({"jobs": [{**job, "error": 5}]}, size_bytes=1, n_read=1)


def test_fio_is_not_confused_by_a_colon() -> None:
    assert r"--filename=/a\:b" in fio_command("fio", Path("/a:b"))
