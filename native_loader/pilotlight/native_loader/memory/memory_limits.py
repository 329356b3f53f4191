"""How much memory this process may still take."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

_KIB = 1024


def available_memory_bytes(
    *, proc: Path = Path("/proc"), cgroups: Path = Path("/sys/fs/cgroup")
) -> int | None:
    """Return what the machine, every control group above and this process's own limit leave.

    None where none of them says.
    """
    known = [*_machine(proc), *_control_groups(proc, cgroups), *_own_limit(proc)]
    return max(min(known), 0) if known else None


def data_bytes(*, proc: Path = Path("/proc")) -> int:
    """Return what the kernel holds against this process's RLIMIT_DATA."""
    for line in _lines(proc / "self/status"):
        name, _, value = line.partition(":")
        if name == "VmData":
            return int(value.split()[0]) * _KIB
    return 0


def _machine(proc: Path) -> Iterator[int]:
    for line in _lines(proc / "meminfo"):
        name, _, value = line.partition(":")
        if name == "MemAvailable":
            yield int(value.split()[0]) * _KIB


def _own_limit(proc: Path) -> Iterator[int]:
    limit_bytes, _ = resource.getrlimit(resource.RLIMIT_DATA)
    if limit_bytes != resource.RLIM_INFINITY:
        yield limit_bytes - data_bytes(proc=proc)


def _control_groups(proc: Path, cgroups: Path) -> Iterator[int]:
    """Yield the room in each memory group that holds this process, version 1 or 2."""
    for line in _lines(proc / "self/cgroup"):
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers == "":
            yield from _rooms(
                cgroups, path, "memory.max", "memory.current", reclaimable="inactive_file"
            )
        elif "memory" in controllers.split(","):
            yield from _rooms(
                cgroups / "memory",
                path,
                "memory.limit_in_bytes",
                "memory.usage_in_bytes",
                reclaimable="total_inactive_file",
            )


def _rooms(mount: Path, path: str, limit: str, usage: str, *, reclaimable: str) -> Iterator[int]:
    # A container may see its own group as the mount, whatever path it is told.
    inside = PurePosixPath(path.lstrip("/"))
    for directory in {mount, *(mount / part for part in (inside, *inside.parents))}:
        limit_bytes = _number(directory / limit)
        usage_bytes = _number(directory / usage)
        if limit_bytes is not None and usage_bytes is not None:
            yield limit_bytes - usage_bytes + _statistic(directory / "memory.stat", reclaimable)


def _statistic(file: Path, name: str) -> int:
    for line in _lines(file):
        key, _, value = line.partition(" ")
        if key == name and value.isdigit():
            return int(value)
    return 0


def _number(file: Path) -> int | None:
    text = "".join(_lines(file)).strip()
    return int(text) if text.isdigit() else None


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text().splitlines()
    except OSError:
        return []
