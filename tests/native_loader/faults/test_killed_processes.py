from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest
from tests.native_loader.faults.faulty_file_system import Faults
from tests.native_loader.faults.faulty_files import FaultyFiles

from pilotlight.native_loader import Checkpoint, ChunkPool, Loader, WeightLayout
from pilotlight.native_loader.packing.pack import pack

pytestmark = pytest.mark.integration

NAME = "model.safetensors"
DEADLINE_SECONDS = 30

LOAD = """
import sys
from pilotlight.native_loader import *

checkpoint = Checkpoint.open(sys.argv[1])
pool = ChunkPool(checkpoint.n_chunks * CHUNK_BYTES)
with Loader(pool) as loader:
    load = loader.submit(checkpoint, pool.allocate(checkpoint.n_chunks))
    while not load.progress().done_bytes:
        pass
    print("loading", flush=True)
    load.result()
"""

ATTACH = """
import ctypes, sys, time
import msgspec
from pilotlight.native_loader import WeightLayout
from pilotlight.native_loader._native import ChunkView

layout = msgspec.json.decode(sys.argv[2].encode(), type=WeightLayout)
file = layout.files[0]
view = memoryview(ChunkView(int(sys.argv[1]), layout.chunk_bytes, file.chunks, file.size_bytes))
view[:] = bytes(len(view))
print("attached", flush=True)
time.sleep(600)
"""

PACK = """
import sys, time
from pilotlight.native_loader import Checkpoint
from pilotlight.native_loader.packing.pack import pack

def stop(done_bytes, total_bytes):
    print("packing", flush=True)
    time.sleep(600)

pack(Checkpoint.open(sys.argv[1]), sys.argv[2], progress=stop)
"""


@contextmanager
def running(
    script: str, *arguments: str, until: str, fds: Sequence[int] = ()
) -> Iterator[subprocess.Popen[str]]:
    """Run a script until it says a word, and kill it in the end."""
    process = subprocess.Popen(
        [sys.executable, "-c", script, *arguments],
        stdout=subprocess.PIPE,
        text=True,
        pass_fds=fds,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == f"{until}\n"
        yield process
    finally:
        process.kill()
        process.communicate(timeout=DEADLINE_SECONDS)


def held(pool: ChunkPool, checkpoint: Checkpoint, chunks: Sequence[int]) -> bytes:
    return b"".join(
        os.pread(pool.fd, chunk.length, target * pool.chunk_bytes)
        for chunk, target in zip(checkpoint.chunks, chunks, strict=True)
    )


def test_a_reader_that_is_killed_in_the_middle_disturbs_nobody(
    pool: ChunkPool, loader: Loader, faulty: FaultyFiles, failing: Checkpoint, source: Path
) -> None:
    faulty.set(NAME, Faults(delay_seconds=0.05))
    chunks = pool.allocate(failing.n_chunks)

    with running(LOAD, str(failing.path), until="loading") as reader:
        load = loader.submit(failing, chunks)
        reader.send_signal(signal.SIGKILL)
        reader.wait(DEADLINE_SECONDS)
        load.result(DEADLINE_SECONDS)

    assert reader.returncode == -signal.SIGKILL
    assert held(pool, failing, chunks) == (source / NAME).read_bytes()
    pool.release(chunks)


def test_a_process_that_is_killed_with_weights_attached_changes_nothing_in_the_pool(
    pool: ChunkPool, loader: Loader, sound: Checkpoint
) -> None:
    chunks = pool.allocate(sound.n_chunks)
    loader.submit(sound, chunks).result(DEADLINE_SECONDS)
    pool.bind(chunks)
    layout = msgspec.json.encode(WeightLayout.of(sound, chunks, pool.chunk_bytes)).decode()

    with running(ATTACH, str(pool.fd), layout, until="attached", fds=[pool.fd]) as worker:
        assert pool.accounts().bound == sound.n_chunks
        worker.send_signal(signal.SIGKILL)
        worker.wait(DEADLINE_SECONDS)

    assert held(pool, sound, chunks) == sound.files[0].path.read_bytes()
    pool.unbind(chunks)
    pool.release(chunks)


def test_what_a_killed_pack_left_is_cleaned_up_by_the_next_one(
    sound: Checkpoint, tmp_path: Path
) -> None:
    packs = tmp_path / "packs"
    packs.mkdir()
    with running(PACK, str(sound.path), str(packs / "packed"), until="packing") as packer:
        packer.send_signal(signal.SIGKILL)
        packer.wait(DEADLINE_SECONDS)
    assert [path.name for path in packs.iterdir()] == [".packed.packing"]

    packed = pack(sound, packs / "packed")

    assert packed.verify().n_chunks == 1
    assert [path.name for path in packs.iterdir()] == ["packed"]
