"""Reads one file with fio, as its own processes do.

Run as `python -m pilotlight.native_loader.bench.fio_reader PARENT_PID FIO FILE`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pilotlight.native_loader.bench.messages import Go, Loaded, Ready
from pilotlight.process.bench.answers import Answers
from pilotlight.process.bench.errors import BenchFailed
from pilotlight.process.page_cache import bytes_read

THREADS = 4
_SHARE = f"{100 // THREADS}%"


def fio_command(fio: str, file: Path) -> list[str]:
    """Return what reads a file with as many threads, each a part of it."""
    return [
        fio,
        "--name=raw",
        # A colon would part two names.
        "--filename=" + str(file).replace(":", "\\:"),
        "--readonly",
        "--rw=read",
        "--bs=1M",
        "--direct=1",
        "--ioengine=psync",
        "--thread",
        f"--numjobs={THREADS}",
        f"--size={_SHARE}",
        f"--offset_increment={_SHARE}",
        "--group_reporting",
        "--output-format=json",
    ]


def loaded_from(document: Mapping[str, Any], *, size_bytes: int, n_read: int) -> Loaded:
    """Return what fio's report means for a file of that size.

    Raises:
        BenchFailed: fio met an error.
    """
    (job,) = document["jobs"]
    if job["error"]:
        raise BenchFailed(f"fio ended with error {job['error']}")
    seconds = size_bytes / job["read"]["bw_bytes"]
    return Loaded(
        load_seconds=seconds,
        total_seconds=seconds,
        size_bytes=size_bytes,
        cpu_seconds=(job["usr_cpu"] + job["sys_cpu"]) / 100 * seconds,
        bytes_read=n_read,
    )


def main() -> None:
    """Wait for the word, read, and say how that went."""
    answers = Answers()
    fio, file = sys.argv[2], Path(sys.argv[3])
    answers.say(Ready())

    def read(_: Go) -> None:
        done = subprocess.run(fio_command(fio, file), capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise BenchFailed(done.stderr.strip() or "fio failed")
        # What a process has waited for counts as its own.
        n_read = bytes_read(os.getpid())
        answers.say(
            loaded_from(json.loads(done.stdout), size_bytes=file.stat().st_size, n_read=n_read)
        )

    answers.serve(Go, read)


if __name__ == "__main__":
    main()
