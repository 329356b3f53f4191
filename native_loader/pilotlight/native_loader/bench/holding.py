"""Holds a checkpoint in a pool, for other processes to attach.

Run as `python -m pilotlight.native_loader.bench.holding PARENT_PID DIRECTORY`, it does
so until nobody has a question any more.
"""

from __future__ import annotations

import os
import sys

import msgspec

from pilotlight.native_loader import CHUNK_BYTES, Checkpoint, ChunkPool, Loader, WeightLayout
from pilotlight.native_loader.bench.messages import Go, Held
from pilotlight.process.bench.answers import Answers


def main() -> None:
    """Load, say where it lies, wait for the end."""
    answers = Answers()

    def hold() -> None:
        checkpoint = Checkpoint.open(sys.argv[2])
        pool = ChunkPool(checkpoint.n_chunks * CHUNK_BYTES)
        pool.populate()
        chunks = pool.allocate(checkpoint.n_chunks)
        with Loader(pool) as loader:
            loader.submit(checkpoint, chunks).result()
        layout = WeightLayout.of(checkpoint, chunks, pool.chunk_bytes)
        held = Held(
            pool=f"/proc/{os.getpid()}/fd/{pool.fd}",
            layout=msgspec.Raw(msgspec.json.encode(layout)),
            pool_bytes=pool.populated_bytes,
            huge_bytes=pool.huge_bytes,
        )
        answers.say(held)
        answers.serve(Go, lambda _: None)

    answers.attempt(hold)


if __name__ == "__main__":
    main()
