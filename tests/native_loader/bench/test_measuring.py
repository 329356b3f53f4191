"""One measurement, with a process that says what it is told to."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from pilotlight.native_loader.bench.checkpoints import Source
from pilotlight.native_loader.bench.measuring import Mishaps, Way, is_proven, measure, place
from pilotlight.native_loader.bench.messages import Loaded
from pilotlight.native_loader.bench.recipes import Layout
from pilotlight.process.bench.errors import BenchFailed
from pilotlight.process.page_cache import flush_to_disk

SIZE_BYTES = 4 << 20

SAYING = """
import json, sys, time
print(json.dumps({"type": "Ready"}), flush=True)
sys.stdin.readline()
print(sys.argv[1], flush=True)
sys.stdin.readline()
"""


@pytest.fixture
def source(tmp_path: Path) -> Source:
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"x" * SIZE_BYTES)
    flush_to_disk(file)
    return Source(
        name="some", layout=Layout.SINGLE, groups=[(tmp_path, [file])], size_bytes=SIZE_BYTES
    )


def loaded(**more: Any) -> dict[str, Any]:
    return {
        "type": "Loaded",
        "load_seconds": 1.0,
        "total_seconds": 1.0,
        "cpu_seconds": 0.1,
        "size_bytes": SIZE_BYTES,
        "bytes_read": SIZE_BYTES,
        "digest": "right",
        **more,
    }


def way(source: Source, answer: dict[str, Any], *, is_cold: bool = True) -> Way:
    command = [sys.executable, "-I", "-c", SAYING, json.dumps(answer)]
    return Way(loader="saying", source=source, command=command, is_cold=is_cold)


@pytest.mark.parametrize(
    ("bytes_read", "is_cold", "expected"),
    [
        (SIZE_BYTES, True, True),
        (SIZE_BYTES * 99 // 100, True, True),
        (SIZE_BYTES * 97 // 100, True, False),
        (0, True, False),
        (0, False, True),
        (SIZE_BYTES, False, True),
    ],
)
def test_the_bytes_from_the_disk_prove_where_a_load_came_from(
    bytes_read: int, is_cold: bool, expected: bool, source: Source
) -> None:
    result = Loaded(
        load_seconds=1,
        total_seconds=1,
        size_bytes=SIZE_BYTES,
        cpu_seconds=0,
        bytes_read=bytes_read,
    )

    assert is_proven(way(source, {}, is_cold=is_cold), result) is expected


@pytest.mark.integration
class TestMeasure:
    async def test_a_run_that_is_proven_is_returned(self, source: Source) -> None:
        mishaps = Mishaps()

        result = await measure(way(source, loaded()), mishaps, digest="right")

        assert (result.load_seconds, result.digest) == (1.0, "right")
        assert mishaps == Mishaps()

    async def test_runs_that_were_not_cold_are_thrown_away_and_counted(
        self, source: Source
    ) -> None:
        mishaps = Mishaps()

        with pytest.raises(BenchFailed, match="saying, some, single: of 4,194,304 bytes, 5 came"):
            await measure(way(source, loaded(bytes_read=5)), mishaps, digest="right")

        assert mishaps.thrown_away == {"saying": 3}

    async def test_other_tensors_are_an_error(self, source: Source) -> None:
        with pytest.raises(BenchFailed, match="gave other tensors than were written"):
            await measure(way(source, loaded(digest="wrong")), Mishaps(), digest="right")

    async def test_a_mishap_is_told_in_its_words(self, source: Source) -> None:
        with pytest.raises(BenchFailed, match="saying, some, single: saying: no such thing"):
            await measure(way(source, {"mishap": "no such thing"}), Mishaps(), digest="right")

    async def test_a_process_that_dies_is_told(self, source: Source) -> None:
        dying = Way(
            loader="dying",
            source=source,
            command=[sys.executable, "-I", "-c", "raise SystemExit('out of luck')"],
            is_cold=True,
        )

        with pytest.raises(BenchFailed, match="out of luck"):
            await measure(dying, Mishaps(), digest="right")


@pytest.mark.integration
def test_files_are_put_where_they_should_be(source: Source, tmp_path: Path) -> None:
    missing = tmp_path / "missing"

    place(source.files, is_cold=True)
    place(source.files, is_cold=False)

    with pytest.raises(FileNotFoundError):
        place([missing], is_cold=True)
