from __future__ import annotations

from pathlib import Path

import pytest

from pilotlight.store_node.bench.raw_read import BLOCK_BYTES, RawReader


def test_every_byte_of_every_file_is_read(tmp_path: Path) -> None:
    sizes = {"a": 3 * BLOCK_BYTES, "b": 2 * BLOCK_BYTES + 12_345, "c": 77}
    for name, size in sizes.items():
        (tmp_path / name).write_bytes(b"x" * size)

    with RawReader([tmp_path / name for name in sizes]) as reader:
        reads = [reader.read() for _ in range(2)]

    for read in reads:
        assert read.size_bytes == sum(sizes.values())
        assert read.seconds > 0


def test_what_is_read_is_what_the_files_hold(tmp_path: Path) -> None:
    file = tmp_path / "a"
    content = bytes(range(256)) * (BLOCK_BYTES // 256) + b"the end"
    file.write_bytes(content)

    with RawReader([file]) as reader:
        reader.read()
        # The second block lies behind the first one.
        assert bytes(reader.memory[: len(content)]) == content


def test_a_file_that_has_shrunk_is_an_error_not_a_fast_disk(tmp_path: Path) -> None:
    file = tmp_path / "a"
    file.write_bytes(b"x" * 2 * BLOCK_BYTES)

    with RawReader([file]) as reader:
        file.write_bytes(b"x" * BLOCK_BYTES)
        with pytest.raises(OSError, match="shorter than it was"):
            reader.read()


def test_nothing_is_read_quickly(tmp_path: Path) -> None:
    with RawReader([]) as reader:
        assert reader.read().size_bytes == 0
