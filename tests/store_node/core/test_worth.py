from __future__ import annotations

import math

import pytest

from pilotlight.store_node.core import worth
from pilotlight.store_node.core.worth import HALF_LIFE_SECONDS, Worth
from pilotlight.store_node.protocol import ChannelId, Reference

LLAMA, QWEN = Reference("llama"), Reference("qwen")
FAST, SLOW = ChannelId("fast"), ChannelId("slow")


def test_use_weighs_half_as_much_after_a_half_life() -> None:
    known = Worth()
    known.note_use(LLAMA, now=100.0)

    at_once = known.uses_per_second(LLAMA, now=100.0)
    later = known.uses_per_second(LLAMA, now=100.0 + HALF_LIFE_SECONDS)

    assert at_once == pytest.approx(math.log(2) / HALF_LIFE_SECONDS)
    assert later == pytest.approx(at_once / 2)


def test_steady_use_settles_at_its_rate() -> None:
    known = Worth()
    for number in range(1000):
        known.note_use(LLAMA, now=60.0 * number)

    rate = known.uses_per_second(LLAMA, now=60.0 * 999)

    # Every use just happened or is up to a minute old: within 1.2 % of one a minute, since a
    # minute takes 1 - 2 ** (-60 / 1800) = 2.3 % of a weight.
    assert rate == pytest.approx(1 / 60.0, rel=0.012)


def test_what_was_never_used_has_no_rate() -> None:
    assert Worth().uses_per_second(LLAMA, now=100.0) == 0.0


def test_load_takes_what_the_last_one_took_per_byte() -> None:
    known = Worth()
    known.note_pace(FAST, 1e9)
    known.note_load(LLAMA, bytes_read=1_000, busy_seconds=4.0, now=1.0)
    known.note_load(LLAMA, bytes_read=1_000, busy_seconds=2.0, now=2.0)

    # 2.0 s / 1000 bytes
    assert known.load_seconds(LLAMA, size_bytes=1_500, channel_id=FAST) == pytest.approx(3.0)


def test_load_that_tells_nothing_of_the_disk_teaches_nothing() -> None:
    known = Worth()
    known.note_pace(FAST, 500.0)
    known.note_load(LLAMA, bytes_read=1_000, busy_seconds=0.0, now=1.0)

    assert known.load_seconds(LLAMA, size_bytes=1_000, channel_id=FAST) == 2.0  # 1000 / 500


def test_without_a_load_the_disk_decides_or_else_the_fastest_one() -> None:
    known = Worth()
    before = known.load_seconds(LLAMA, size_bytes=2_000_000_000, channel_id=SLOW)
    known.note_pace(FAST, 1_000.0)
    known.note_pace(SLOW, 100.0)

    by_disk = [
        known.load_seconds(LLAMA, size_bytes=1_000, channel_id=channel)
        for channel in (FAST, SLOW, ChannelId("other"))
    ]

    assert before == 2.0  # 2 GB at an assumed 1 GB/s
    assert by_disk == [1.0, 10.0, 1.0]


def test_forgets_the_least_popular_of_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worth, "MOST_KNOWN_CHECKPOINTS", 2)
    known = Worth()
    # Twice, long ago: 2 / 8 < 1.
    known.note_use(LLAMA, now=0.0)
    known.note_use(LLAMA, now=0.0)
    known.note_use(QWEN, now=3 * HALF_LIFE_SECONDS)

    known.note_use(Reference("new"), now=3 * HALF_LIFE_SECONDS)

    rates = [
        known.uses_per_second(each, now=3 * HALF_LIFE_SECONDS)
        for each in (LLAMA, QWEN, Reference("new"))
    ]
    assert [rate > 0 for rate in rates] == [False, True, True]
