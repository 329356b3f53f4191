from __future__ import annotations

import io
import json
from typing import Any

import pytest
import yaml

from pilotlight.process import tables

COLUMNS = [
    tables.text("name"),
    tables.size("size_bytes"),
    tables.seconds("age_seconds", "AGE"),
    tables.rate("disk_bytes_per_second", wide_only=True),
    tables.text("nodes", wide_only=True),
]
ROWS: list[dict[str, Any]] = [
    {
        "name": "opt-[125m]",
        "size_bytes": 1536,
        "age_seconds": 0.035,
        "disk_bytes_per_second": 2.21e9,
        "nodes": ["a", "b"],
    },
    {"name": "x" * 200, "size_bytes": None, "age_seconds": 7800.0, "nodes": []},
]


def render(format: tables.OutputFormat) -> str:
    stream = io.StringIO()
    tables.write_rows(ROWS, COLUMNS, format=format, stream=stream)
    return stream.getvalue()


def test_a_table_is_for_people() -> None:
    lines = render("table").splitlines()

    assert lines[0].split() == ["NAME", "SIZE", "AGE"]
    assert lines[1].split() == ["opt-[125m]", "1.50", "KiB", "35.0", "ms"]
    assert lines[2].split() == ["x" * 200, "-", "2h", "10m"]  # no terminal: never cut or wrapped
    assert len(lines) == 3


def test_wide_has_more_columns() -> None:
    lines = render("wide").splitlines()

    assert lines[0].split() == ["NAME", "SIZE", "AGE", "DISK", "NODES"]
    assert lines[1].split()[-4:] == ["2.21", "GB/s", "a,", "b"]
    assert lines[2].split()[-2:] == ["-", "-"]


def test_json_and_yaml_have_every_value_raw() -> None:
    assert json.loads(render("json")) == ROWS
    assert yaml.safe_load(render("yaml")) == ROWS


def test_says_so_when_there_is_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    stream = io.StringIO()

    tables.write_rows([], COLUMNS, empty="no model is deployed", stream=stream)

    assert stream.getvalue() == ""
    assert capsys.readouterr().err == "no model is deployed\n"


def test_nothing_is_an_empty_list_for_programs() -> None:
    stream = io.StringIO()

    tables.write_rows([], COLUMNS, format="json", stream=stream)

    assert json.loads(stream.getvalue()) == []
