from __future__ import annotations

import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import pytest
from tests.conftest import Absent

from pilotlight.native_loader import CHUNK_BYTES, Checkpoint

pytestmark = pytest.mark.integration

DEADLINE_SECONDS = 60
GROUPS = Path("/sys/fs/cgroup/memory")

# While the group is full only the readers run: the interpreter waits for a word.
LOAD = """
import sys
from pathlib import Path
from pilotlight.native_loader import *

large, small = (Checkpoint.open(Path(argument)) for argument in sys.argv[1:])
pool = ChunkPool(16 * CHUNK_BYTES)
loader = Loader(pool)
chunks, others = pool.allocate(large.n_chunks), pool.allocate(1)
print("ready", flush=True)
sys.stdin.readline()
refused = loader.submit(large, chunks)
sys.stdin.readline()
try:
    refused.result()
except MemoryRefused as error:
    print("refused:", error)
loader.submit(small, others).result()
loader.submit(large, chunks).result()
loader.close()
pool.release(chunks + others)
pool.check_integrity()
print("free:", pool.accounts().free, "of", pool.accounts().total, flush=True)
"""


@pytest.fixture
def group(absent: Absent) -> Iterator[Path]:
    """A control group in which the kernel refuses memory, and kills nobody for it."""
    if not (GROUPS / "memory.oom_control").exists():
        absent("cgroup-v1", f"{GROUPS} is no memory controller of version 1")
    group = GROUPS / f"pilotlight-{uuid.uuid4().hex}"
    try:
        group.mkdir()
        (group / "memory.oom_control").write_text("1")
    except OSError as exc:
        absent("cgroup-v1", f"no group can be made below {GROUPS}: {exc}")
    yield group
    group.rmdir()


@contextmanager
def loading(large: Path, small: Path) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", LOAD, str(large), str(small)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate(timeout=DEADLINE_SECONDS)


def say(stream: IO[str] | None, word: str) -> None:
    assert stream is not None
    stream.write(f"{word}\n")
    stream.flush()


def wait_until_refused(group: Path) -> None:
    """Wait until the kernel has refused memory, and a moment more, until that was answered."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while int((group / "memory.failcnt").read_text()) == 0:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    time.sleep(0.5)


def test_a_load_that_gets_no_memory_fails_and_the_loader_goes_on(
    group: Path, large: Checkpoint, directory: Path
) -> None:
    with loading(large.path, directory) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        (group / "cgroup.procs").write_text(str(process.pid))
        (group / "memory.limit_in_bytes").write_text(str(2 * CHUNK_BYTES))

        say(process.stdin, "load")
        wait_until_refused(group)
        (group / "memory.limit_in_bytes").write_text("-1")
        out, errors = process.communicate("go on\n", timeout=DEADLINE_SECONDS)

    assert errors == ""
    assert process.returncode == 0
    assert out.splitlines() == [
        "refused: the kernel refused madvise(MADV_POPULATE_WRITE): Cannot allocate memory",
        "free: 16 of 16",
    ]
