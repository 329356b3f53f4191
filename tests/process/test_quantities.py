from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pilotlight.process.errors import InvalidQuantity
from pilotlight.process.quantities import (
    format_bytes,
    format_rate,
    format_seconds,
    parse_bytes,
    parse_seconds,
)


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [
        ("4096", 4096),
        ("8GiB", 8 * 2**30),
        ("500MB", 500 * 10**6),
        ("1.5 gib", 3 * 2**29),
        ("0", 0),
        ("9007199254740993", 2**53 + 1),  # more than a float holds
    ],
)
def test_reads_sizes(text: str, size_bytes: int) -> None:
    assert parse_bytes(text) == size_bytes


@pytest.mark.parametrize(
    "text", ["", "GiB", "-1", "8 GiBs", "1e9", "nan", "inf", "1.2.3", "9" * 5000]
)
def test_refuses_what_is_no_size(text: str) -> None:
    with pytest.raises(InvalidQuantity):
        parse_bytes(text)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("60s", 60), ("5m", 300), ("250ms", 0.25), ("1h30m", 5400), ("2.5", 2.5), ("1d", 86400)],
)
def test_reads_durations(text: str, seconds: float) -> None:
    assert parse_seconds(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "s", "-5s", "5 parsecs", "1h30", "load", "5m!", "9" * 400])
def test_refuses_what_is_no_duration(text: str) -> None:
    with pytest.raises(InvalidQuantity):
        parse_seconds(text)


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1536, "1.50 KiB"),
        (999.6 * 2**20, "1000 MiB"),
        (16 * 2**30, "16.0 GiB"),
        (5 * 2**40, "5.00 TiB"),
    ],
)
def test_writes_sizes(size_bytes: float, text: str) -> None:
    assert format_bytes(size_bytes) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (0.000123, "0.123 ms"),
        (0.035, "35.0 ms"),
        (0.9999, "1.00 s"),
        (2.414, "2.41 s"),
        (99.96, "1m 40s"),
        (7800, "2h 10m"),
        (277_200, "3d 05h"),  # 77 h
        (math.inf, "never"),
    ],
)
def test_writes_durations(seconds: float, text: str) -> None:
    assert format_seconds(seconds) == text


def test_writes_rates_in_decimal_units() -> None:
    assert format_rate(2.21e9) == "2.21 GB/s"
    assert format_rate(0) == "0 B/s"


@pytest.mark.property
@given(st.integers(min_value=0, max_value=2**62))
def test_a_plain_number_of_bytes_reads_as_itself(size_bytes: int) -> None:
    assert parse_bytes(str(size_bytes)) == size_bytes


@pytest.mark.property
@given(st.floats(min_value=0, max_value=1e15))
def test_a_size_written_for_people_reads_back_nearly_the_same(size_bytes: float) -> None:
    assert parse_bytes(format_bytes(size_bytes)) == pytest.approx(size_bytes, rel=0.006, abs=1)
