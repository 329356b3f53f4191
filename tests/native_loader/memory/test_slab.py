from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from pilotlight.native_loader import (
    CHUNK_BYTES,
    AttachedWeights,
    Checkpoint,
    CheckpointFile,
    ChunkPool,
    ChunkStateError,
    LayoutMismatch,
    Loader,
    PoolExhausted,
    WeightLayout,
)
from pilotlight.native_loader.errors import PlaceStateError
from pilotlight.native_loader.formats.parts import PLACE_BYTES, Place, cut_into_chunks
from pilotlight.native_loader.memory.slab import Slab, SlabAccounts
from pilotlight.native_loader.testing import random_tensor, write_checkpoint

DEADLINE_SECONDS = 30
MIB = 1 << 20


def sized(*sizes_bytes: int) -> Checkpoint:
    """Return a checkpoint of files of those sizes, without the files."""
    files = tuple(
        CheckpointFile(
            path=Path(f"{i}.safetensors"),
            size_bytes=size,
            data_offset=0,
            device=0,
            inode=i,
            mtime_ns=0,
            ctime_ns=0,
        )
        for i, size in enumerate(sizes_bytes)
    )
    return Checkpoint(
        path=Path("sized"),
        format="safetensors",
        files=files,
        tensors={},
        aliases={},
        chunks=cut_into_chunks(sizes_bytes),
        checksums=None,
        content_id="",
        layout_id="",
        execution_files=(),
    )


@pytest.fixture
def slab(pool: ChunkPool) -> Slab:
    return Slab(pool)


def test_a_hundred_small_checkpoints_take_seven_chunks(pool: ChunkPool, slab: Slab) -> None:
    places = [slab.allocate(sized(MIB)) for _ in range(100)]

    # 16 of them fill a chunk: 96 fill six.
    assert pool.accounts().cached == 7
    assert slab.accounts().free_bytes == 12 * MIB
    assert len({place for each in places for place in each}) == 100


def test_places_are_whole_pages(slab: Slab) -> None:
    first, second = slab.allocate(sized(1, PLACE_BYTES + 1))

    assert first == Place(chunk=0, offset=0)
    assert second == Place(chunk=0, offset=PLACE_BYTES)
    assert slab.accounts().cached_bytes == 3 * PLACE_BYTES


def test_large_files_have_chunks_to_themselves(pool: ChunkPool, slab: Slab) -> None:
    places = slab.allocate(sized(MIB, CHUNK_BYTES + 1, MIB))

    assert places == [
        Place(chunk=2, offset=0),
        0,
        1,
        Place(chunk=2, offset=MIB),
    ]
    slab.bind(places)
    assert pool.accounts().bound == 3
    slab.unbind(places)
    slab.release(places)
    assert pool.accounts().free == pool.n_chunks


def test_takes_the_narrowest_gap_and_joins_gaps_again(slab: Slab) -> None:
    places = [slab.allocate(sized(n * MIB)) for n in (4, 1, 2, 1, 8)]
    slab.release(places[0])
    slab.release(places[2])

    (narrow,) = slab.allocate(sized(2 * MIB))
    assert narrow == places[2][0]
    slab.release([narrow])
    slab.release(places[1])
    (wide,) = slab.allocate(sized(7 * MIB))
    assert wide == places[0][0]


def test_a_chunk_is_bound_while_one_of_its_places_is(pool: ChunkPool, slab: Slab) -> None:
    a, b = slab.allocate(sized(MIB)), slab.allocate(sized(MIB))

    slab.bind(a)
    slab.bind(b)
    slab.unbind(a)
    assert pool.accounts().bound == 1
    assert slab.accounts().bound_bytes == MIB
    slab.release(a)
    slab.unbind(b)
    assert (pool.accounts().bound, pool.accounts().cached) == (0, 1)
    slab.release(b)
    assert pool.accounts().free == pool.n_chunks
    assert slab.accounts().n_chunks == 0


def test_an_empty_chunk_can_be_taken_whole(pool: ChunkPool, slab: Slab) -> None:
    slab.release(slab.allocate(sized(MIB)))

    assert len(pool.allocate(pool.n_chunks)) == pool.n_chunks


Operation = Callable[[Slab, list[int | Place]], None]


@pytest.mark.parametrize(
    ("operation", "message"),
    [
        (lambda slab, places: slab.unbind(places), "is cached, not bound"),
        (lambda slab, places: slab.bind(places * 2), "is named twice, not cached"),
        (lambda slab, places: slab.release(places * 2), "is named twice, not cached"),
        (lambda slab, places: slab.bind([*places, Place(chunk=0, offset=4096)]), "is free, not"),
        (lambda slab, places: slab.release([*places, Place(chunk=9, offset=0)]), "is free, not"),
        (lambda slab, places: slab.bind([*places, 5]), "chunk 5 is free, not cached"),
        (lambda slab, places: slab.release([*places, 5]), "chunk 5 is free, not cached"),
        (lambda slab, places: slab.release([*places, 99]), "chunk 99 is not in the pool"),
    ],
)
def test_refuses_places_in_another_state_and_changes_nothing(
    pool: ChunkPool, slab: Slab, operation: Operation, message: str
) -> None:
    places = slab.allocate(sized(MIB))
    before = (slab.accounts(), pool.accounts())

    with pytest.raises((PlaceStateError, ChunkStateError), match=message):
        operation(slab, places)

    assert (slab.accounts(), pool.accounts()) == before
    slab.check_integrity()
    slab.bind(places)


def test_bound_places_are_not_released(slab: Slab) -> None:
    places = slab.allocate(sized(MIB))
    slab.bind(places)

    with pytest.raises(PlaceStateError, match="place 0 of chunk 0 is bound, not cached"):
        slab.release(places)


def test_takes_nothing_when_not_all_fits(pool: ChunkPool, slab: Slab) -> None:
    pool.allocate(pool.n_chunks - 2)
    held = slab.allocate(sized(MIB))
    before = slab.accounts()

    with pytest.raises(PoolExhausted):
        slab.allocate(sized(MIB, CHUNK_BYTES, CHUNK_BYTES))
    with pytest.raises(PoolExhausted):
        slab.allocate(sized(MIB, CHUNK_BYTES + 1))

    assert slab.accounts() == before
    assert pool.accounts().free == 1
    slab.release(held)


def test_refuses_a_checkpoint_whose_chunks_are_too_large() -> None:
    pool = ChunkPool(4 * MIB, chunk_bytes=MIB)

    with pytest.raises(LayoutMismatch, match="does not fit a pool's chunk of 1,048,576 bytes"):
        Slab(pool).allocate(sized(2 * MIB))

    assert pool.accounts().free == 4
    pool.close()


def test_loads_side_by_side_into_one_chunk(
    pool: ChunkPool, loader: Loader, slab: Slab, tmp_path: Path, rng: random.Random
) -> None:
    tensors = [
        {"odd": random_tensor(rng, "U8", 4097 + i), "w": random_tensor(rng, "BF16", 300, 100 + i)}
        for i in range(8)
    ]
    checkpoints = [
        Checkpoint.open(write_checkpoint(tmp_path / str(i), each)) for i, each in enumerate(tensors)
    ]
    places = [slab.allocate(checkpoint) for checkpoint in checkpoints]

    pairs = list(zip(checkpoints, places, strict=True))
    for load in [loader.submit(checkpoint, each) for checkpoint, each in pairs]:
        load.result(DEADLINE_SECONDS)

    assert pool.accounts().cached == 1
    for checkpoint, each, expected in zip(checkpoints, places, tensors, strict=True):
        layout = WeightLayout.of(checkpoint, each, pool.chunk_bytes)
        views = AttachedWeights(pool.fd, layout).tensors()
        for name, tensor in expected.items():
            raw = views[name].reshape(-1).view(torch.uint8).numpy().tobytes()
            assert raw == tensor.data
        slab.release(each)


SIZES = st.sampled_from([1, 4096, 4097, MIB, 5 * MIB, 9 * MIB, CHUNK_BYTES, CHUNK_BYTES + 1])


@pytest.mark.property
class Model(RuleBasedStateMachine):
    """Compares a slab with plain sets of what is held."""

    N_CHUNKS = 5

    @initialize()
    def start(self) -> None:
        self.pool = ChunkPool(self.N_CHUNKS * CHUNK_BYTES)
        self.slab = Slab(self.pool)
        self.cached: list[list[int | Place]] = []
        self.bound: list[list[int | Place]] = []
        self.lengths: dict[Place, int] = {}

    @rule(sizes=st.lists(SIZES, max_size=3))
    def allocate(self, sizes: list[int]) -> None:
        checkpoint = sized(*sizes)
        n_free = self.pool.accounts().free
        try:
            places = self.slab.allocate(checkpoint)
        except PoolExhausted:
            needed = sum(-(-size // CHUNK_BYTES) for size in sizes)
            assert needed > n_free
            return
        for chunk, place in zip(checkpoint.chunks, places, strict=True):
            if isinstance(place, Place):
                assert place not in self.lengths
                self.lengths[place] = -(-chunk.length // PLACE_BYTES) * PLACE_BYTES
        self.cached.append(places)

    @rule(at=st.integers(0, 99))
    def bind(self, at: int) -> None:
        if self.cached:
            self.bound.append(self.cached.pop(at % len(self.cached)))
            self.slab.bind(self.bound[-1])

    @rule(at=st.integers(0, 99))
    def unbind(self, at: int) -> None:
        if self.bound:
            self.cached.append(self.bound.pop(at % len(self.bound)))
            self.slab.unbind(self.cached[-1])

    @rule(at=st.integers(0, 99))
    def release(self, at: int) -> None:
        if self.cached:
            places = self.cached.pop(at % len(self.cached))
            self.slab.release(places)
            for place in places:
                if isinstance(place, Place):
                    del self.lengths[place]

    @rule(at=st.integers(0, 99), wrong=st.sampled_from([Slab.bind, Slab.unbind, Slab.release]))
    def misuse(self, at: int, wrong: Callable[[Slab, list[int | Place]], None]) -> None:
        held = self.cached if wrong is Slab.unbind else self.bound
        if held and held[at % len(held)]:
            with pytest.raises((PlaceStateError, ChunkStateError)):
                wrong(self.slab, held[at % len(held)])

    @invariant()
    def books_balance(self) -> None:
        self.slab.check_integrity()
        self.pool.check_integrity()
        bound = {chunk_of(place) for each in self.bound for place in each}
        held = {chunk_of(place) for each in self.cached for place in each} | bound
        accounts = self.pool.accounts()
        assert accounts.bound == len(bound)
        assert accounts.cached == len(held - bound)
        assert accounts.free + accounts.cached + accounts.bound == self.N_CHUNKS

    @invariant()
    def places_do_not_overlap(self) -> None:
        ends: dict[int, int] = {}
        for place in sorted(self.lengths, key=lambda place: (place.chunk, place.offset)):
            assert place.offset >= ends.get(place.chunk, 0)
            assert place.offset % PLACE_BYTES == 0
            ends[place.chunk] = place.offset + self.lengths[place]
            assert ends[place.chunk] <= CHUNK_BYTES
        assert not ends.keys() & {
            place for each in self.cached + self.bound for place in each if isinstance(place, int)
        }

    def teardown(self) -> None:
        if hasattr(self, "pool"):
            for each in self.bound:
                self.slab.unbind(each)
            for each in self.bound + self.cached:
                self.slab.release(each)
            assert self.pool.accounts().free == self.N_CHUNKS
            assert self.slab.accounts() == SlabAccounts(
                free_bytes=0, cached_bytes=0, bound_bytes=0, n_chunks=0
            )
            self.pool.close()


def chunk_of(place: int | Place) -> int:
    return place.chunk if isinstance(place, Place) else place


TestModel = Model.TestCase
TestModel.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
