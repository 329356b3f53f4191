from __future__ import annotations

import pytest
from tests.docs.outputs import missing_lines

PRINTED = """\
NODE    STATE  DISK
node-1  up     853 MB/s
deployed llama: 147 KiB, llama, on SSD of node-1
"""


@pytest.mark.parametrize(
    "shown",
    [
        "NODE STATE DISK",
        "node-1  up  1.19 GB/s",
        "deployed llama: 93.7 MiB, llama, on SSD of node-1",
        "deployed llama: …",
        "…\nnode-1 up 5 MB/s",
    ],
)
def test_numbers_and_the_width_of_columns_may_differ(shown: str) -> None:
    assert missing_lines(shown, PRINTED) == []


@pytest.mark.parametrize(
    "shown",
    [
        "NODE  STATE",
        "NODE  DISK  STATE",
        "node-1  down  853 MB/s",
        "deployed opt: 93.7 MiB, llama, on SSD of node-1",
        "deployed llama",
    ],
)
def test_words_may_not_differ(shown: str) -> None:
    assert missing_lines(shown, PRINTED) == [shown]
