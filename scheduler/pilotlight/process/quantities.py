"""Sizes and durations as people write and read them."""

from __future__ import annotations

import math
import re
import time

from pilotlight.process.errors import InvalidQuantity

_BYTES_PER_UNIT = {
    "": 1,
    "b": 1,
    "kb": 10**3,
    "mb": 10**6,
    "gb": 10**9,
    "tb": 10**12,
    "kib": 2**10,
    "mib": 2**20,
    "gib": 2**30,
    "tib": 2**40,
}
_SECONDS_PER_UNIT = {"": 1.0, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
# Of more digits than this nothing has so many.
_QUANTITY = re.compile(r"([0-9]{1,30}(?:\.[0-9]{0,30})?|\.[0-9]{1,30})\s*([a-zA-Z]*)")


class ByteCount(int):
    """A number of bytes; in settings and flags also written "8GiB" or "500MB"."""


class Seconds(float):
    """A number of seconds; in settings and flags also written "250ms", "60s" or "5m"."""


def parse_bytes(text: str) -> ByteCount:
    """Read a size: "8GiB", "1.5MB", "4096"; a fraction of a byte is rounded.

    Raises:
        InvalidQuantity: it is no size.
    """
    number, unit = _split(text, _BYTES_PER_UNIT, "a size such as 8GiB or 500MB")
    return ByteCount(round(number * _BYTES_PER_UNIT[unit]))


def parse_seconds(text: str) -> Seconds:
    """Read a duration: "250ms", "60s", "5m", "1h30m", "2.5".

    Raises:
        InvalidQuantity: it is no duration.
    """
    parts = _QUANTITY.findall(text.strip())
    if len(parts) > 1 and _QUANTITY.sub("", text).strip() == "" and all(p[1] for p in parts):
        return Seconds(sum(parse_seconds("".join(part)) for part in parts))
    number, unit = _split(text, _SECONDS_PER_UNIT, "a duration such as 250ms, 60s or 5m")
    return Seconds(number * _SECONDS_PER_UNIT[unit])


def format_count(n: int, noun: str) -> str:
    """Write how many there are: "1 node", "3 nodes"."""
    return f"{n} {noun}{'' if n == 1 else 's'}"


def format_bytes(size_bytes: float) -> str:
    """Write a size for people: "1.5 GiB"."""
    if abs(size_bytes) < 2**10:
        return f"{size_bytes:.0f} B"
    for unit, factor in (("KiB", 2**10), ("MiB", 2**20), ("GiB", 2**30)):
        if abs(size_bytes) < factor * 1000:
            return f"{_three_digits(size_bytes / factor)} {unit}"
    return f"{_three_digits(size_bytes / 2**40)} TiB"


def format_rate(bytes_per_second: float) -> str:
    """Write a rate for people: "2.21 GB/s", decimal as disks are sold."""
    for unit, factor in (("B/s", 1), ("kB/s", 10**3), ("MB/s", 10**6)):
        if abs(bytes_per_second) < factor * 1000:
            return f"{_three_digits(bytes_per_second / factor)} {unit}"
    return f"{_three_digits(bytes_per_second / 10**9)} GB/s"


def format_seconds(seconds: float) -> str:
    """Write a duration for people: "35 ms", "2.41 s", "5m 03s", "2h 10m", "3d 04h"."""
    if not math.isfinite(seconds):
        return "never"
    if seconds == 0:
        return "0 s"
    if abs(seconds) < 0.9995:
        return f"{_three_digits(seconds * 1e3)} ms"
    if abs(seconds) < 99.95:
        return f"{_three_digits(seconds)} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}m {rest:02d}s"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours}h {minutes:02d}m"
    days, hours = divmod(hours, 24)
    return f"{days}d {hours:02d}h"


def format_moment(seconds: float) -> str:
    """Write seconds since 1970 for people: "2026-01-31 14:05:09", local time."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))


def _split(text: str, units: dict[str, int] | dict[str, float], expected: str) -> tuple[float, str]:
    match = _QUANTITY.fullmatch(text.strip())
    if match is None or match[2].lower() not in units:
        raise InvalidQuantity(f"expected {expected}, got {text!r}")
    digits = match[1]
    return int(digits) if digits.isdigit() else float(digits), match[2].lower()


def _three_digits(value: float) -> str:
    if value == 0:
        return "0"
    rounded = float(f"{value:.3g}")
    decimals = max(0, 2 - math.floor(math.log10(abs(rounded))))
    return f"{rounded:.{min(decimals, 3)}f}"
