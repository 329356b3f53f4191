from __future__ import annotations

import os
from pathlib import Path

from pilotlight.process.page_cache import (
    bring_into_page_cache,
    bytes_read,
    drop_from_page_cache,
)


def test_files_come_and_go_unchanged(tmp_path: Path) -> None:
    files = [tmp_path / "a", tmp_path / "b"]
    for file in files:
        file.write_bytes(b"x" * 3_000_000)

    drop_from_page_cache(files)
    bring_into_page_cache(files)

    assert [file.read_bytes() for file in files] == [b"x" * 3_000_000] * 2


def test_a_process_has_read_something_or_nothing() -> None:
    assert bytes_read(os.getpid()) >= 0
