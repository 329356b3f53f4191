from __future__ import annotations

import os
from pathlib import Path

from pilotlight.native_loader.disks.filesystems import fsid_of, mount_source

MOUNTS = """\
23 28 0:21 / /proc rw,nosuid - proc proc rw
28 1 254:0 / / rw,relatime shared:1 master:2 - ext4 /dev/vda rw,discard
31 28 254:16 /part /mnt/a\\040b rw - xfs /dev/vdb rw
32 28 254:32 / /broken rw
33 28 254:160 / /other rw - ext4 /dev/vdk rw
"""


def test_finds_what_is_mounted_by_the_device_number(tmp_path: Path) -> None:
    mounts = tmp_path / "mountinfo"
    mounts.write_text(MOUNTS)

    assert mount_source(os.makedev(254, 0), mounts=mounts) == "/dev/vda"
    assert mount_source(os.makedev(254, 16), mounts=mounts) == "/dev/vdb"
    assert mount_source(os.makedev(0, 21), mounts=mounts) == "proc"


def test_a_source_that_is_not_told_is_empty(tmp_path: Path) -> None:
    mounts = tmp_path / "mountinfo"
    mounts.write_text(MOUNTS)

    assert mount_source(os.makedev(254, 32), mounts=mounts) == ""
    assert mount_source(os.makedev(9, 9), mounts=mounts) == ""
    assert mount_source(os.makedev(254, 0), mounts=tmp_path / "none") == ""


def test_an_id_belongs_to_the_file_system_and_not_to_the_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")

    assert fsid_of(tmp_path / "file") == fsid_of(tmp_path)
    assert fsid_of(tmp_path / "none") == 0
