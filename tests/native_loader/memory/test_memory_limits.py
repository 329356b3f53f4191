from __future__ import annotations

import resource
from pathlib import Path

import pytest

from pilotlight.native_loader.memory.memory_limits import available_memory_bytes

GIB = 1 << 30


class Machine:
    """The files of /proc and /sys/fs/cgroup that tell about memory."""

    def __init__(self, root: Path) -> None:
        self.proc = root / "proc"
        self.cgroups = root / "cgroup"

    def write(self, path: Path, text: object) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n")

    def has(self, available_kib: int, groups: str) -> None:
        self.write(self.proc / "meminfo", f"MemTotal: 9 kB\nMemAvailable: {available_kib} kB")
        self.write(self.proc / "self/cgroup", groups)

    def limits_v2(self, group: str, limit: object, usage: int, inactive: int = 0) -> None:
        self.write(self.cgroups / group / "memory.max", limit)
        self.write(self.cgroups / group / "memory.current", usage)
        self.write(self.cgroups / group / "memory.stat", f"anon 5\ninactive_file {inactive}")

    def available_bytes(self) -> int | None:
        return available_memory_bytes(proc=self.proc, cgroups=self.cgroups)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_is_what_the_machine_has(machine: Machine) -> None:
    machine.has(8 << 20, "0::/")

    assert machine.available_bytes() == 8 * GIB


def test_a_group_of_version_2_limits_it(machine: Machine) -> None:
    machine.has(8 << 20, "0::/a/b")
    machine.limits_v2("a/b", "max", usage=GIB)
    machine.limits_v2("a", 4 * GIB, usage=3 * GIB, inactive=GIB // 2)

    # 4 GiB allowed, 3 used, of which half a GiB is page cache that nobody needs.
    assert machine.available_bytes() == 3 * GIB // 2


def test_a_group_of_version_1_limits_it(machine: Machine) -> None:
    machine.has(8 << 20, "5:cpu:/x\n4:hugetlb,memory:/jobs/1\n0::/")
    group = machine.cgroups / "memory" / "jobs" / "1"
    machine.write(group / "memory.limit_in_bytes", 2 * GIB)
    machine.write(group / "memory.usage_in_bytes", GIB)
    machine.write(group / "memory.stat", "total_inactive_file 0")

    assert machine.available_bytes() == GIB


def test_a_container_sees_its_group_as_the_mount(machine: Machine) -> None:
    machine.has(8 << 20, "0::/docker/0123456789abcdef")
    machine.limits_v2("", 2 * GIB, usage=GIB)

    assert machine.available_bytes() == GIB


def test_is_never_negative(machine: Machine) -> None:
    machine.has(8 << 20, "0::/a")
    machine.limits_v2("a", GIB, usage=2 * GIB)

    assert machine.available_bytes() == 0


def test_is_unknown_where_nothing_says_it(machine: Machine) -> None:
    assert machine.available_bytes() is None


def test_this_machine_says_it() -> None:
    available = available_memory_bytes()

    assert available is not None
    assert available > 0


def test_the_processes_own_limit_counts(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine.has(8 << 20, "0::/")
    machine.write(machine.proc / "self/status", f"Name: x\nVmData: {1 << 20} kB")
    monkeypatch.setattr(resource, "getrlimit", lambda _: (3 * GIB, resource.RLIM_INFINITY))

    # 3 GiB may be allocated, one is.
    assert machine.available_bytes() == 2 * GIB
