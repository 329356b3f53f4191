from __future__ import annotations

import os
from pathlib import Path

import pytest

from pilotlight.process.errors import SettingsError
from pilotlight.process.quantities import ByteCount
from pilotlight.process.settings import read_settings
from pilotlight.store_node.settings import KIND, NodeSettings, sizes_of


def test_machine_is_divided_where_the_settings_leave_it_open() -> None:
    sizes = sizes_of(NodeSettings(devices=2))

    # A quarter for DRAM, a quarter for both devices together.
    assert sizes.dram_bytes // 2 == pytest.approx(sizes.device_bytes, abs=1)
    assert sizes.threads == max(1, len(os.sched_getaffinity(0)) // 2)


def test_nodes_of_one_machine_share_it() -> None:
    alone, shared = sizes_of(NodeSettings()), sizes_of(NodeSettings(nodes_here=3))

    # What is left of the memory changes from one look to the next.
    assert shared.dram_bytes == pytest.approx(alone.dram_bytes / 3, rel=0.1)
    assert shared.device_bytes == pytest.approx(alone.device_bytes / 3, rel=0.1)
    assert shared.threads == max(1, alone.threads // 3)


def test_what_is_said_is_taken_even_if_it_is_nothing() -> None:
    sizes = sizes_of(
        NodeSettings(dram_bytes=ByteCount(0), device_bytes=ByteCount(1 << 30), threads=3)
    )

    assert (sizes.dram_bytes, sizes.device_bytes, sizes.threads) == (0, 1 << 30, 3)


def test_reads_a_file(tmp_path: Path) -> None:
    file = tmp_path / "node.yaml"
    file.write_text(
        f"apiVersion: pilotlight/v1\nkind: {KIND}\ndram_bytes: 64GiB\n"
        "models: [~/models, /data]\nlog: {level: debug}\n"
    )

    settings = read_settings(
        KIND, NodeSettings, path=file, environ={"PILOTLIGHT_DEVICES": "4"}, overrides={}
    )

    assert settings.dram_bytes == 64 << 30
    assert settings.models == (Path.home() / "models", Path("/data"))
    assert (settings.devices, settings.log.level) == (4, "debug")


def test_misspelt_key_is_refused_with_the_nearest_name(tmp_path: Path) -> None:
    file = tmp_path / "node.yaml"
    file.write_text(f"apiVersion: pilotlight/v1\nkind: {KIND}\ndram_byte: 64GiB\n")

    with pytest.raises(SettingsError, match="dram_bytes"):
        read_settings(KIND, NodeSettings, path=file, environ={}, overrides={})
