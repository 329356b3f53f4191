"""What tells file systems apart that have the same device number at different times."""

from __future__ import annotations

import os
from pathlib import Path

_MOUNTS = Path("/proc/self/mountinfo")


def fsid_of(path: Path) -> int:
    """Return the id that a path's file system has given itself, 0 where there is none."""
    try:
        return os.statvfs(path).f_fsid
    except OSError:
        return 0


def mount_source(device: int, *, mounts: Path = _MOUNTS) -> str:
    """Return what is mounted under a device number, "" where that is not known."""
    number = f"{os.major(device)}:{os.minor(device)}"
    try:
        lines = mounts.read_text(errors="replace").splitlines()
    except OSError:
        return ""
    # 36 35 98:0 /root /mount/point rw,noatime shared:1 - ext4 /dev/sda1 rw
    for line in lines:
        mount, _, what = line.partition(" - ")
        if mount.split(" ")[2:3] == [number]:
            return "".join(what.split(" ")[1:2])
    return ""
