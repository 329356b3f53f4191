"""The bench on a GPU, for which the fake driver stands."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest
from tests.native_loader.fake_driver import build_fake_driver

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

BENCH = [sys.executable, "-P", "-m", "pilotlight.scheduler.cli", "bench", "load", "--short"]


def test_loads_onto_a_gpu_are_measured_and_compared_with_what_was_written(
    tmp_path: Path, absent: Callable[[str, str], NoReturn]
) -> None:
    library = build_fake_driver()
    if library is None:
        absent("compiler", "the fake CUDA driver is built by one")
    file = tmp_path / "figures.json"
    environ = {
        "PILOTLIGHT_HOME": str(tmp_path / "home"),
        "PILOTLIGHT_CUDA_LIBRARY": str(library),
        "FAKE_CUDA_DEVICES": str(1 << 30),
        "FAKE_CUDA_BANDWIDTH": str(2e9),
    }

    done = subprocess.run(
        [*BENCH, "--only", "gpu", "--json", str(file)],
        env=os.environ | environ,
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )

    assert done.returncode == 0, done.stderr
    found = json.loads(file.read_text())
    assert {row["loader"] for row in found["gpu"]} >= {"gpu", "fresh-gpu", "pool-to-gpu", "link"}
    assert 0 < found["h2d_ratio_to_limit"] < 2
    assert 0 < found["ssd_to_gpu_ratio_to_limit"] < 2
    # The torch of the tests knows no GPU.
    assert any(note.startswith("gpu, safetensors failed") for note in found["notes"])
