"""Checkpoints that the loader's tests load."""

from __future__ import annotations

import gc
import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

import pytest
from tests.native_loader.fake_driver import FakeDriver, build_fake_driver

from pilotlight.native_loader import CHUNK_BYTES, Checkpoint, ChunkPool, Loader
from pilotlight.native_loader.testing import RawTensor, random_tensor, write_checkpoint

Tensors = dict[str, RawTensor]


@pytest.fixture
def rng() -> random.Random:
    return random.Random(7)


@pytest.fixture
def tensors(rng: random.Random) -> Tensors:
    """A few tensors of every awkward kind; the names are out of the order of execution."""
    return {
        "lm_head.weight": random_tensor(rng, "F32", 16, 8),
        "model.layers.10.w": random_tensor(rng, "BF16", 128, 2),
        "model.layers.2.w": random_tensor(rng, "F16", 256),
        "model.embed_tokens.weight": random_tensor(rng, "F32", 16, 8),
        "mask": random_tensor(rng, "U8", 3),
        "scalar": random_tensor(rng, "F64"),
        "empty": random_tensor(rng, "I64", 0, 5),
    }


@pytest.fixture
def directory(tmp_path: Path, tensors: Tensors) -> Path:
    """A checkpoint of one file."""
    return write_checkpoint(tmp_path / "source", tensors)


@pytest.fixture
def large(tmp_path: Path, rng: random.Random) -> Checkpoint:
    """A checkpoint of three chunks: two whole ones and a bit."""
    tensors = {
        "a": random_tensor(rng, "U8", CHUNK_BYTES + 1000),
        "b": random_tensor(rng, "F32", CHUNK_BYTES // 4),
    }
    return Checkpoint.open(write_checkpoint(tmp_path / "large", tensors))


@pytest.fixture
def pool() -> Iterator[ChunkPool]:
    pool = ChunkPool(12 * CHUNK_BYTES)
    yield pool
    pool.check_integrity()
    pool.close()


@pytest.fixture
def loader(pool: ChunkPool) -> Iterator[Loader]:
    with Loader(pool) as loader:
        yield loader


@pytest.fixture(scope="session")
def _fake_driver() -> FakeDriver | None:
    path = build_fake_driver()
    return None if path is None else FakeDriver(path)


@pytest.fixture
def fake_driver(
    _fake_driver: FakeDriver | None,
    absent: Callable[[str, str], NoReturn],
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[FakeDriver]:
    """The fake CUDA driver in place of the real one, with three GPUs of 256 MiB."""
    if _fake_driver is None:
        absent("compiler", "the fake CUDA driver is built by one")
    monkeypatch.setenv("PILOTLIGHT_CUDA_LIBRARY", str(_fake_driver.path))
    _fake_driver.reset(3, 256 << 20)
    yield _fake_driver
    gc.collect()
    _fake_driver.check_clean()


@pytest.fixture
def flip_byte() -> Callable[[Path, int], None]:
    """Return what changes one byte of a file and hides it from mtime and size."""

    def flip(file: Path, offset: int) -> None:
        before = file.stat()
        with file.open("r+b") as stream:
            stream.seek(offset)
            byte = stream.read(1)[0]
            stream.seek(offset)
            stream.write(bytes([byte ^ 1]))
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))

    return flip
