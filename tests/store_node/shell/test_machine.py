from __future__ import annotations

from pathlib import Path

import pytest

from pilotlight.native_loader import CHUNK_BYTES
from pilotlight.native_loader.disks.disk_settings import KnownDisks
from pilotlight.store_node.errors import InvalidSettings
from pilotlight.store_node.settings import Sizes
from pilotlight.store_node.shell.machine import Machine


def make_machine(tmp_path: Path, *, device_bytes: int, dram_bytes: int) -> Machine:
    sizes = Sizes(device_bytes=device_bytes, dram_bytes=dram_bytes, threads=1)
    return Machine(sizes, n_devices=2, loader_threads=1, disks=KnownDisks(), checksums=tmp_path)


def test_pool_holds_dram_and_all_devices_in_whole_chunks(tmp_path: Path) -> None:
    machine = make_machine(
        tmp_path, device_bytes=3 * CHUNK_BYTES + 1, dram_bytes=2 * CHUNK_BYTES - 1
    )

    assert machine.capacity.device_chunks == 3
    assert machine.capacity.dram_chunks == 1
    assert machine.pool.n_chunks == machine.capacity.total_chunks == 7  # 2 x 3 + 1
    machine.close()


def test_devices_come_first_where_memory_is_short(tmp_path: Path) -> None:
    machine = make_machine(tmp_path, device_bytes=4 * CHUNK_BYTES, dram_bytes=1 << 50)

    assert machine.capacity.device_chunks == 4
    assert machine.capacity.dram_chunks == machine.pool.n_chunks - 8  # 2 x 4
    machine.close()


def test_refuses_devices_that_hold_nothing(tmp_path: Path) -> None:
    with pytest.raises(InvalidSettings, match="at least one chunk"):
        make_machine(tmp_path, device_bytes=CHUNK_BYTES - 1, dram_bytes=1 << 30)
