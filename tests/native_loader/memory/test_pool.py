from __future__ import annotations

import fcntl
import mmap
import os
from collections.abc import Iterator

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from pilotlight.native_loader import (
    CHUNK_BYTES,
    Accounts,
    ChunkPool,
    ChunkStateError,
    MemoryRefused,
    PoolClosed,
    PoolExhausted,
    PoolTooSmall,
)

SMALL = 4096
MOVES = [("bind", "cached", "bound"), ("unbind", "bound", "cached"), ("release", "cached", "free")]


@pytest.fixture
def small() -> Iterator[ChunkPool]:
    """A pool of eight chunks of a page."""
    pool = ChunkPool(8 * SMALL, chunk_bytes=SMALL)
    yield pool
    pool.check_integrity()
    pool.close()


def test_holds_whole_chunks_only() -> None:
    pool = ChunkPool(3 * CHUNK_BYTES - 1)

    assert pool.n_chunks == 2
    assert pool.chunk_bytes == CHUNK_BYTES
    assert pool.capacity_bytes == 2 * CHUNK_BYTES
    assert pool.accounts() == Accounts(free=2, cached=0, bound=0, total=2)


@pytest.mark.parametrize("capacity_bytes", [CHUNK_BYTES - 1, 0, -1])
def test_refuses_to_be_too_small(capacity_bytes: int) -> None:
    with pytest.raises(PoolTooSmall, match="holds no chunk of 16,777,216 bytes"):
        ChunkPool(capacity_bytes)


def test_is_clamped_to_what_memory_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "pilotlight.native_loader.memory.pool.available_memory_bytes", lambda: 100 * SMALL
    )

    pool = ChunkPool(1 << 50, chunk_bytes=SMALL)

    # Nine tenths of what is available.
    assert pool.n_chunks == 90


def test_refuses_chunks_that_are_not_whole_pages() -> None:
    with pytest.raises(ValueError, match="multiple of 4096"):
        ChunkPool(1 << 20, chunk_bytes=1000)


def test_moves_chunks_between_accounts(small: ChunkPool) -> None:
    chunks = small.allocate(3)
    small.bind(chunks[:1])

    assert chunks == [0, 1, 2]
    assert small.accounts() == Accounts(free=5, cached=2, bound=1, total=8)

    small.unbind(chunks[:1])
    small.release(chunks)

    assert small.accounts() == Accounts(free=8, cached=0, bound=0, total=8)


def test_says_what_is_there_when_it_is_exhausted(small: ChunkPool) -> None:
    small.bind(small.allocate(2))
    small.allocate(3)

    with pytest.raises(PoolExhausted) as caught:
        small.allocate(4)

    error = caught.value
    assert (error.wanted, error.free, error.cached, error.bound) == (4, 3, 3, 2)


def test_changes_nothing_when_one_chunk_is_wrong(small: ChunkPool) -> None:
    chunks = small.allocate(2)

    for wrong in ([0, 1, 2], [0, 0], [0, 99]):
        with pytest.raises(ChunkStateError):
            small.release(wrong)
        with pytest.raises(ChunkStateError):
            small.bind(wrong)
    small.bind(chunks)
    with pytest.raises(ChunkStateError, match="chunk 0 is bound, not cached"):
        small.release(chunks)

    assert small.accounts() == Accounts(free=6, cached=0, bound=2, total=8)


def test_memory_comes_when_asked_for() -> None:
    pool = ChunkPool(2 * CHUNK_BYTES)
    assert pool.populated_bytes == 0

    pool.populate(1)

    assert pool.populated_bytes == CHUNK_BYTES
    assert pool.huge_bytes <= CHUNK_BYTES
    pool.populate()
    assert pool.populated_bytes == 2 * CHUNK_BYTES


def test_others_can_map_it_but_neither_write_nor_resize_it(small: ChunkPool) -> None:
    with pytest.raises(PermissionError):
        mmap.mmap(small.fd, SMALL, flags=mmap.MAP_SHARED)
    with pytest.raises(PermissionError):
        os.pwrite(small.fd, b"x", 0)
    with pytest.raises(PermissionError):
        os.ftruncate(small.fd, SMALL)
    with mmap.mmap(small.fd, SMALL, flags=mmap.MAP_PRIVATE) as private:
        private[0] = 7
    assert os.pread(small.fd, 1, 0) == b"\0"


def test_its_descriptor_is_not_inherited(small: ChunkPool) -> None:
    assert fcntl.fcntl(small.fd, fcntl.F_GETFD) & fcntl.FD_CLOEXEC


def test_refuses_everything_once_closed() -> None:
    pool = ChunkPool(SMALL, chunk_bytes=SMALL)

    pool.close()
    pool.close()

    with pytest.raises(PoolClosed):
        pool.allocate(1)
    with pytest.raises(PoolClosed):
        pool.accounts()


def test_addresses_that_the_kernel_does_not_have_are_a_typed_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("pilotlight.native_loader.memory.pool.available_memory_bytes", lambda: None)

    with pytest.raises(MemoryRefused, match="the kernel refused"):
        ChunkPool(1 << 50)


class PoolMachine(RuleBasedStateMachine):
    """The pool against the simplest model of itself: a state per chunk."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = ChunkPool(8 * SMALL, chunk_bytes=SMALL)
        self.states = ["free"] * 8

    def counts(self) -> Accounts:
        count = self.states.count
        return Accounts(free=count("free"), cached=count("cached"), bound=count("bound"), total=8)

    @rule(n=st.integers(0, 9))
    def allocate(self, n: int) -> None:
        free = [chunk for chunk in range(8) if self.states[chunk] == "free"]
        if n > len(free):
            with pytest.raises(PoolExhausted):
                self.pool.allocate(n)
            return
        assert self.pool.allocate(n) == free[:n]
        for chunk in free[:n]:
            self.states[chunk] = "cached"

    @rule(
        chunks=st.lists(st.integers(0, 9), max_size=4),
        move=st.sampled_from(
            [
                ("bind", "cached", "bound"),
                ("unbind", "bound", "cached"),
                ("release", "cached", "free"),
            ]
        ),
    )
    def move(self, chunks: list[int], move: tuple[str, str, str]) -> None:
        verb, before, after = move
        is_right = len(set(chunks)) == len(chunks) and all(
            chunk < 8 and self.states[chunk] == before for chunk in chunks
        )
        if not is_right:
            with pytest.raises(ChunkStateError):
                getattr(self.pool, verb)(chunks)
            return
        getattr(self.pool, verb)(chunks)
        for chunk in chunks:
            self.states[chunk] = after

    @precondition(lambda self: "cached" in self.states)
    @rule()
    def release_all_cached(self) -> None:
        self.pool.release([chunk for chunk in range(8) if self.states[chunk] == "cached"])
        self.states = ["free" if state == "cached" else state for state in self.states]

    @invariant()
    def accounts_add_up(self) -> None:
        assert self.pool.accounts() == self.counts()
        self.pool.check_integrity()

    def teardown(self) -> None:
        self.pool.close()


TestPoolAccounts = pytest.mark.property(PoolMachine.TestCase)
TestPoolAccounts.settings = settings(max_examples=30, stateful_step_count=30)
