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


def test_what_json_has_no_number_for_is_null(tmp_path: Path) -> None:
    file = tmp_path / "figures.json"

    write_document({"a": float("nan"), "b": [float("inf"), 1.5], "c": {"d": -1.0}}, file)

    assert json.loads(file.read_text()) == {"a": None, "b": [None, 1.5], "c": {"d": -1.0}}
    assert [each.name for each in tmp_path.iterdir()] == ["figures.json"]


def test_a_pipe_is_written_to_and_a_link_followed(tmp_path: Path) -> None:
    real, link = tmp_path / "real.json", tmp_path / "link.json"
    real.write_text("{}")
    link.symlink_to(real)

    write_document({"figure": 1}, link)

    assert link.is_symlink()
    assert json.loads(real.read_text()) == {"figure": 1}
    write_document({"figure": 1}, Path("/dev/null"))
    assert Path("/dev/null").is_char_device()
