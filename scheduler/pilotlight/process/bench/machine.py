"""What the bench ran on."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

_PACKAGES = ("pilotlight", "torch", "transformers", "safetensors", "numpy", "grpcio")


def machine_facts() -> dict[str, Any]:
    """Return what its figures depend on: machine, load beside it, versions."""
    return {
        "processor": _processor(),
        "processors": len(os.sched_getaffinity(0)),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "load_average_at_start": os.getloadavg()[0],
        "versions": {name: _version(name) for name in _PACKAGES},
    }


def default_threads() -> int:
    """Return half of the processors, so that who measures takes none from what is measured."""
    return max(1, len(os.sched_getaffinity(0)) // 2)


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.machine())


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
