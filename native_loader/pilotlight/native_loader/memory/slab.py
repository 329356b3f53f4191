"""Room for checkpoints in a pool, where small weight files share chunks.

Each weight file of one chunk gets a *place*, a range of a shared chunk, which is
cached or bound; larger files have chunks to themselves. To the pool a shared chunk is
bound while one of its places is, else cached, and free once it has no places:

    places of a chunk          the pool's account
    some bound                 bound
    none bound, some cached    cached
    none                       free
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from threading import Lock

from pilotlight.native_loader.errors import PlaceStateError, PoolExhausted
from pilotlight.native_loader.formats.checkpoint import Checkpoint
from pilotlight.native_loader.formats.parts import PLACE_BYTES, Place
from pilotlight.native_loader.load_plans import check_length
from pilotlight.native_loader.memory.gaps import Gap, Gaps
from pilotlight.native_loader.memory.pool import ChunkPool


@dataclass(frozen=True, slots=True, kw_only=True)
class SlabAccounts:
    """How many bytes of the shared chunks are where."""

    free_bytes: int
    cached_bytes: int
    bound_bytes: int
    n_chunks: int
    """Whose sizes are the sum of the three."""


@dataclass(slots=True)
class _Held:
    """A place that somebody holds."""

    length: int
    is_bound: bool = False


class Slab:
    """Takes room for checkpoints from a pool, and gives it back. Thread-safe.

    Operations change all chunks and places that they are given, or nothing.
    """

    def __init__(self, pool: ChunkPool) -> None:
        self._pool = pool
        self._lock = Lock()
        self._places: dict[Place, _Held] = {}
        self._gaps = Gaps()
        # By shared chunk.
        self._n_places: Counter[int] = Counter()
        self._n_bound: Counter[int] = Counter()

    @property
    def pool(self) -> ChunkPool:
        """Return the pool that room is taken from."""
        return self._pool

    def accounts(self) -> SlabAccounts:
        """Count the bytes of the shared chunks."""
        with self._lock:
            held = self._places.values()
            bound_bytes = sum(each.length for each in held if each.is_bound)
            return SlabAccounts(
                free_bytes=sum(gap.length for gap in self._gaps),
                cached_bytes=sum(each.length for each in held) - bound_bytes,
                bound_bytes=bound_bytes,
                n_chunks=len(self._n_places),
            )

    def allocate(self, checkpoint: Checkpoint) -> list[int | Place]:
        """Take room, cached as yet, for each of a checkpoint's chunks.

        Raises:
            PoolExhausted: the pool has not enough free chunks.
            LayoutMismatch: the pool's chunks are smaller than the checkpoint's.
        """
        check_length(checkpoint, self._pool.chunk_bytes)
        n_chunks = Counter(chunk.file for chunk in checkpoint.chunks)
        lengths = [
            chunk.length if n_chunks[chunk.file] == 1 else None for chunk in checkpoint.chunks
        ]
        with self._lock:
            chunks = self._pool.allocate(lengths.count(None))
            taken: list[Place] = []
            try:
                # In case of a failure the list has those that were taken before.
                taken.extend(self._take(length) for length in lengths if length is not None)
            except PoolExhausted:
                self._release(chunks, taken)
                raise
            whole, shared = iter(chunks), iter(taken)
            return [next(whole) if length is None else next(shared) for length in lengths]

    def bind(self, places: Iterable[int | Place]) -> None:
        """Move cached chunks and places to bound.

        Raises:
            PlaceStateError: a place is not cached.
            ChunkStateError: a chunk is not, or a load still writes into it.
        """
        chunks, shared = _parted(places)
        with self._lock:
            self._check(shared, is_bound=False)
            bound = [chunk for chunk in Counter(_chunks(shared)) if not self._n_bound[chunk]]
            self._pool.bind(chunks + bound)
            self._n_bound.update(_chunks(shared))
            for place in shared:
                self._places[place].is_bound = True

    def unbind(self, places: Iterable[int | Place]) -> None:
        """Move bound chunks and places back to cached.

        Raises:
            PlaceStateError: a place is not bound.
            ChunkStateError: a chunk is not.
        """
        chunks, shared = _parted(places)
        with self._lock:
            self._check(shared, is_bound=True)
            self._pool.unbind(chunks + _left_without(self._n_bound, shared))
            self._n_bound -= Counter(_chunks(shared))
            for place in shared:
                self._places[place].is_bound = False

    def release(self, places: Iterable[int | Place]) -> None:
        """Give cached chunks and places back; nothing is loaded into them any more.

        Raises:
            PlaceStateError: a place is not cached.
            ChunkStateError: a chunk is not, or a load still writes into it.
        """
        chunks, shared = _parted(places)
        with self._lock:
            self._check(shared, is_bound=False)
            self._release(chunks, shared)

    def check_integrity(self) -> None:
        """Recount the books; a difference is a RuntimeError."""
        with self._lock:
            pieces = [Gap(p.chunk, p.offset, held.length) for p, held in self._places.items()]
            whole = Gaps()
            for piece in [*pieces, *self._gaps]:
                whole.give_back(piece)
            chunk_bytes = self._pool.chunk_bytes
            is_sound = (
                list(whole) == [Gap(chunk, 0, chunk_bytes) for chunk in sorted(self._n_places)]
                and self._n_places == Counter(piece.chunk for piece in pieces)
                and self._n_bound
                == Counter(place.chunk for place, held in self._places.items() if held.is_bound)
            )
            if not is_sound:
                raise RuntimeError("the slab's books differ from its places")

    def _check(self, places: Sequence[Place], *, is_bound: bool) -> None:
        """Check that places are held, in that state, and named once."""
        expected = "bound" if is_bound else "cached"
        for place, n_times in Counter(places).items():
            held = self._places.get(place)
            if held is None:
                raise PlaceStateError(place.chunk, place.offset, expected, "free")
            if held.is_bound != is_bound:
                actual = "bound" if held.is_bound else "cached"
                raise PlaceStateError(place.chunk, place.offset, expected, actual)
            if n_times > 1:
                raise PlaceStateError(place.chunk, place.offset, expected, "named twice")

    def _take(self, length: int) -> Place:
        chunk_bytes = self._pool.chunk_bytes
        length = -(-length // PLACE_BYTES) * PLACE_BYTES
        place = self._gaps.take(length)
        if place is None:
            (chunk,) = self._pool.allocate(1)
            place = Place(chunk=chunk, offset=0)
            if length < chunk_bytes:
                self._gaps.give_back(Gap(chunk, length, chunk_bytes - length))
        self._places[place] = _Held(length)
        self._n_places[place.chunk] += 1
        return place

    def _release(self, chunks: Sequence[int], shared: Sequence[Place]) -> None:
        empty = _left_without(self._n_places, shared)
        self._pool.release([*chunks, *empty])
        self._n_places -= Counter(_chunks(shared))
        for place in shared:
            self._gaps.give_back(Gap(place.chunk, place.offset, self._places.pop(place).length))
        for chunk in empty:
            self._gaps.remove(Gap(chunk, 0, self._pool.chunk_bytes))


def _parted(places: Iterable[int | Place]) -> tuple[list[int], list[Place]]:
    """Return the chunks that are held whole, and the places in those that are shared."""
    chunks: list[int] = []
    shared: list[Place] = []
    for place in places:
        if isinstance(place, Place):
            shared.append(place)
        else:
            chunks.append(place)
    return chunks, shared


def _chunks(places: Iterable[Place]) -> list[int]:
    return [place.chunk for place in places]


def _left_without(counts: Counter[int], places: Iterable[Place]) -> list[int]:
    """Return the chunks that have no others than those places."""
    fewer = Counter(_chunks(places))
    return [chunk for chunk in fewer if counts[chunk] == fewer[chunk]]
