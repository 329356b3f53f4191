from __future__ import annotations

from pathlib import Path

import pytest

from pilotlight.native_loader import CHUNK_BYTES, Checkpoint, ChecksumLedger, LayoutMismatch
from pilotlight.native_loader.formats.parts import Place
from pilotlight.native_loader.load_plans import check_places, plan_load, plan_stream
from pilotlight.native_loader.placements.chunk_copies import ChunkCopy


def copy_of(chunk: int) -> ChunkCopy:
    return ChunkCopy(chunk=chunk, partition=0, from_=0, to=0, length=10)


def test_reads_all_that_is_not_resident(large: Checkpoint) -> None:
    plan = plan_load(large, [5, 3, 9], ledger=None, chunk_bytes=CHUNK_BYTES, resident=[1])

    assert [chunk[4] for chunk in plan.chunks] == [5, 3, 9]
    assert [chunk[7] for chunk in plan.chunks] == [False, True, False]
    assert plan.read == (0, 2)
    assert plan.unknown == (0,)


def test_streams_only_what_is_copied(large: Checkpoint) -> None:
    plan = plan_stream(
        large, [7], ledger=None, chunk_bytes=CHUNK_BYTES, copies=[copy_of(2), copy_of(0)]
    )

    assert plan.numbers == (0, 2)
    assert [chunk[3] for chunk in plan.chunks] == [0, 2]
    assert [copy[0] for copy in plan.copies] == [1, 0]
    assert plan.staging == [7]


def test_shares_chunks_by_place(large: Checkpoint) -> None:
    places: list[int | Place] = [0, 1, Place(chunk=2, offset=8192)]

    plan = plan_load(large, places, ledger=None, chunk_bytes=CHUNK_BYTES)

    assert plan.chunks[2][4:7] == (2, 8192, True)
    assert plan.chunks[1][4:7] == (1, 0, False)


@pytest.mark.parametrize(
    ("places", "rule"),
    [
        ([0, 1], "has 3 chunks, and 2 were given"),
        ([0, Place(chunk=1, offset=4096), 2], "do not fit at byte"),
    ],
)
def test_refuses_places_that_hold_too_little(
    large: Checkpoint, places: list[int | Place], rule: str
) -> None:
    with pytest.raises(LayoutMismatch, match=rule):
        check_places(large, places, CHUNK_BYTES)


def test_refuses_chunks_that_are_too_small(large: Checkpoint) -> None:
    with pytest.raises(LayoutMismatch, match="does not fit a pool's chunk"):
        plan_stream(large, [0], ledger=None, chunk_bytes=4096, copies=[copy_of(0)])


def test_refuses_to_stream_through_nothing(large: Checkpoint) -> None:
    with pytest.raises(LayoutMismatch, match="can't pass through no chunks"):
        plan_stream(large, [], ledger=None, chunk_bytes=CHUNK_BYTES, copies=[copy_of(0)])


def test_compares_with_what_the_ledger_knows(large: Checkpoint, tmp_path: Path) -> None:
    ledger = ChecksumLedger(tmp_path / "ledger")
    ledger.learn(large.files[0], [11, 12, 13])

    plan = plan_load(large, [0, 1, 2], ledger=ledger, chunk_bytes=CHUNK_BYTES)

    assert [chunk[8] for chunk in plan.chunks] == [11, 12, 13]
    assert plan.unknown == ()


@pytest.mark.parametrize("number", [-1, 2**32])
def test_refuses_chunks_that_no_pool_has(large: Checkpoint, number: int) -> None:
    with pytest.raises(LayoutMismatch, match=f"no pool has a chunk {number}"):
        plan_load(large, [0, number, 1], ledger=None, chunk_bytes=CHUNK_BYTES)
    with pytest.raises(LayoutMismatch, match=f"no pool has a chunk {number}"):
        check_places(large, [0, 1, Place(chunk=number, offset=0)], CHUNK_BYTES)
    with pytest.raises(LayoutMismatch, match=f"no pool has a chunk {number}"):
        plan_stream(large, [number], ledger=None, chunk_bytes=CHUNK_BYTES, copies=[copy_of(0)])


def test_refuses_a_place_before_its_chunk(large: Checkpoint) -> None:
    with pytest.raises(LayoutMismatch, match="do not fit at byte -4,096"):
        check_places(large, [0, 1, Place(chunk=2, offset=-4096)], CHUNK_BYTES)


@pytest.mark.parametrize("number", [-1, 3, 2**40])
def test_refuses_residents_that_the_checkpoint_does_not_have(
    large: Checkpoint, number: int
) -> None:
    with pytest.raises(LayoutMismatch, match=f"no chunk {number} that can be resident"):
        plan_load(large, [0, 1, 2], ledger=None, chunk_bytes=CHUNK_BYTES, resident=[1, number])
