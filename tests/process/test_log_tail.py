from __future__ import annotations

from pathlib import Path

from pilotlight.process.log_tail import log_tail


def test_the_tail_is_the_last_lines_of_a_log(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_text("".join(f"line {n}\n" for n in range(10_000)))

    tail = log_tail(path)

    assert tail.splitlines() == [f"line {n}" for n in range(9_980, 10_000)]


def test_a_log_that_is_not_there_has_no_tail(tmp_path: Path) -> None:
    assert log_tail(tmp_path / "log") == ""
