from __future__ import annotations

import json
from pathlib import Path

import pytest

from pilotlight.process.bench.documents import require_writable, write_document
from pilotlight.process.bench.errors import BenchFailed


def test_a_document_is_written_whole_and_alone(tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    file.write_text("older figures")

    write_document({"figure": 1.5}, file)

    assert json.loads(file.read_text()) == {"figure": 1.5}
    assert [path.name for path in tmp_path.iterdir()] == ["figures.json"]


def test_a_file_that_can_be_written_is_not_touched_before(tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    file.write_text("older figures")

    require_writable(file)

    assert file.read_text() == "older figures"
    assert [path.name for path in tmp_path.iterdir()] == ["figures.json"]


def test_a_file_that_can_t_be_written_is_told_with_the_reason(tmp_path: Path) -> None:
    with pytest.raises(BenchFailed, match=r"x\.json can't be written: No such file or directory"):
        require_writable(tmp_path / "missing" / "x.json")
    with pytest.raises(BenchFailed, match="can't be written: it is a directory"):
        require_writable(tmp_path)
