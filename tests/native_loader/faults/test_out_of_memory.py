from __future__ import annotations

import resource
import subprocess
import sys

import pytest

from pilotlight.native_loader import CHUNK_BYTES, Checkpoint

pytestmark = pytest.mark.integration

DEADLINE_SECONDS = 60

MAKE_A_POOL = """
import sys
from pilotlight.native_loader import *
from pilotlight.native_loader.memory import pool as pools

pools.available_memory_bytes = lambda: None
try:
    ChunkPool(int(sys.argv[1]))
except MemoryRefused as error:
    print("refused:", error)
"""

ATTACH = """
import sys
from pathlib import Path
import resource
from pilotlight.native_loader import *

checkpoint = Checkpoint.open(Path(sys.argv[1]))
pool = ChunkPool(checkpoint.n_chunks * CHUNK_BYTES)
chunks = pool.allocate(checkpoint.n_chunks)
with Loader(pool) as loader:
    loader.submit(checkpoint, chunks).result()
layout = WeightLayout.of(checkpoint, chunks, pool.chunk_bytes)
pages = int(Path("/proc/self/statm").read_text().split()[0])
resource.setrlimit(resource.RLIMIT_AS, (pages * 4096 + CHUNK_BYTES, resource.RLIM_INFINITY))
try:
    AttachedWeights(pool.fd, layout)
except MemoryRefused as error:
    print("refused:", error)
pool.release(chunks)
print("free:", pool.accounts().free, "of", pool.accounts().total)
"""


def output_of(script: str, *arguments: str, limit: tuple[int, int] | None = None) -> list[str]:
    """Run a script, with a limit on a resource of its process, and return what it printed."""

    def set_limit() -> None:
        if limit is not None:
            resource.setrlimit(limit[0], (limit[1], resource.RLIM_INFINITY))

    run = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        preexec_fn=set_limit,
        capture_output=True,
        text=True,
        timeout=DEADLINE_SECONDS,
    )
    assert run.stderr == ""
    return run.stdout.splitlines()


@pytest.mark.parametrize(
    ("limit", "refusal"),
    [
        ((resource.RLIMIT_AS, 2 << 30), "the kernel refused mmap: Cannot allocate memory"),
        ((resource.RLIMIT_FSIZE, CHUNK_BYTES), "the kernel refused ftruncate: File too large"),
        ((resource.RLIMIT_NOFILE, 4), "the kernel refused memfd_create: Too many open files"),
    ],
)
def test_a_pool_that_gets_no_room_is_a_typed_error(limit: tuple[int, int], refusal: str) -> None:
    if limit[0] == resource.RLIMIT_NOFILE:
        # Python itself needs more than that to begin.
        script = f"import resource\n{MAKE_A_POOL}".replace(
            "try:\n", "resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))\ntry:\n"
        )
        assert output_of(script, str(4 << 30)) == [f"refused: {refusal}"]
        return

    assert output_of(MAKE_A_POOL, str(4 << 30), limit=limit) == [f"refused: {refusal}"]


def test_weights_that_get_no_addresses_are_a_typed_error(large: Checkpoint) -> None:
    assert output_of(ATTACH, str(large.path)) == [
        "refused: the kernel refused mmap: Cannot allocate memory",
        "free: 3 of 3",
    ]
