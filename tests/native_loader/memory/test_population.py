from __future__ import annotations

import errno
import gc
import subprocess
import sys
from threading import Event, Thread

import pytest

from pilotlight.native_loader import CHUNK_BYTES, ChunkPool, MemoryRefused
from pilotlight.native_loader.memory.population import Population

MUCH = 1 << 40
DEADLINE_SECONDS = 30.0


class FakePool:
    """Answers `populate_ahead` by a script: bytes, or an error; then with all that is missing."""

    n_chunks = 100
    chunk_bytes = 1 << 20

    def __init__(self, *script: int | MemoryRefused) -> None:
        self.script = list(script)
        self.populated_bytes = 0
        self.n_asked = 0
        self.asked = Event()

    def populate_ahead(self, length: int) -> int:
        self.n_asked += 1
        self.asked.set()
        left = self.n_chunks * self.chunk_bytes - self.populated_bytes
        answer = self.script.pop(0) if self.script else min(length, left)
        if isinstance(answer, MemoryRefused):
            raise answer
        self.populated_bytes += answer
        return answer


def run(population: Population) -> None:
    population.start()
    population.join(DEADLINE_SECONDS)
    assert not population.running


def test_ends_when_all_chunks_have_memory() -> None:
    pool = FakePool()
    population = Population(pool, lambda: MUCH)

    run(population)

    assert pool.populated_bytes == 100 << 20
    assert pool.n_asked == 2  # 64 MiB, then 36.
    assert population.refusal == ""


def test_tries_again_what_it_left_to_a_load() -> None:
    pool = FakePool(0, 1 << 20, 0)

    run(Population(pool, lambda: MUCH))

    assert pool.populated_bytes == 100 << 20
    assert pool.n_asked == 5


def test_ends_quietly_where_memory_is_refused_and_says_so() -> None:
    pool = FakePool(1 << 20, MemoryRefused("madvise(MADV_POPULATE_WRITE)", errno.ENOMEM))
    population = Population(pool, lambda: MUCH)

    run(population)

    assert pool.populated_bytes == 1 << 20
    assert "the kernel refused madvise(MADV_POPULATE_WRITE)" in population.refusal


def test_leaves_scarce_memory_to_others_and_says_so() -> None:
    pool = FakePool()
    population = Population(pool, lambda: 300 << 20)

    run(population)

    assert pool.n_asked == 0
    assert population.refusal == "only 314,572,800 bytes of memory are available"


def test_goes_on_where_nobody_says_what_is_available() -> None:
    pool = FakePool()

    run(Population(pool, lambda: None))

    assert pool.populated_bytes == 100 << 20


def test_stops_when_told_though_a_load_never_ends() -> None:
    pool = FakePool(*[0] * 1_000_000)
    population = Population(pool, lambda: MUCH)
    population.start()
    assert pool.asked.wait(DEADLINE_SECONDS)

    population.stop()

    assert not population.running
    assert population.refusal == ""


def test_is_skipped_where_no_thread_can_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(Thread, "start", refuse)
    pool = ChunkPool(CHUNK_BYTES)

    population = pool.populate_in_background()

    assert not population.running
    assert population.refusal == "no thread could be had: can't start new thread"
    population.join()
    pool.close()


@pytest.mark.integration
def test_a_pool_gets_its_memory_in_the_background() -> None:
    pool = ChunkPool(4 * CHUNK_BYTES)

    population = pool.populate_in_background()

    assert pool.populate_in_background() is population
    population.join(DEADLINE_SECONDS)
    assert population.refusal == ""
    assert pool.populated_bytes == 4 * CHUNK_BYTES
    pool.close()


@pytest.mark.integration
def test_closing_a_pool_ends_its_population() -> None:
    pool = ChunkPool(1 << 30)
    population = pool.populate_in_background()

    pool.close()

    assert not population.running


@pytest.mark.integration
def test_a_pool_that_nobody_has_any_more_is_not_populated_further() -> None:
    pool = ChunkPool(1 << 30)
    population = pool.populate_in_background()

    del pool
    gc.collect()

    population.join(DEADLINE_SECONDS)
    assert not population.running


@pytest.mark.integration
def test_a_process_exits_though_its_pool_is_being_populated() -> None:
    script = (
        "from pilotlight.native_loader.memory import population\n"
        "class Endless:\n"
        "    n_chunks, chunk_bytes, populated_bytes = 1, 1, 0\n"
        "    def populate_ahead(self, length): return 0\n"
        "population.Population(Endless(), lambda: None).start()\n"
    )

    subprocess.run([sys.executable, "-c", script], check=True, timeout=DEADLINE_SECONDS)
