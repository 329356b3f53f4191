from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from pilotlight.scheduler.traces import FORMATS

pytestmark = pytest.mark.integration

Run = Callable[..., tuple[int, str, str]]


def test_lists_where_each_trace_is_published(pilotlight: Run) -> None:
    code, out, error = pilotlight("traces", "-o", "json")

    assert (code, error) == (0, "")
    assert [row["name"] for row in json.loads(out)] == [each.name for each in FORMATS]
    assert all(row["published"].startswith("https://") for row in json.loads(out))


def test_checks_every_file_and_names_those_that_are_broken(pilotlight: Run, tmp_path: Path) -> None:
    good, bad = tmp_path / "good.csv", tmp_path / "bad.csv"
    good.write_text("arrival_s,input_tokens,output_tokens\n1,2,3\n4,5,6\n")
    bad.write_text("arrival_s,input_tokens,output_tokens\n1,2,3\n0,5,6\n")

    code, out, error = pilotlight("traces", str(bad), str(good), "-o", "json")

    assert code == 1
    assert json.loads(out) == [
        {
            "file": str(good),
            "trace": "sharegpt-llmservingsim",
            "rows": 2,
            "size_bytes": good.stat().st_size,
        }
    ]
    assert error == f"Error: {bad}, row 3: it is earlier than the row before it\n"
