from __future__ import annotations

from dataclasses import replace

import pytest
from tests.store_node.bench.samples import PARTS, a_round, rival, start

from pilotlight.store_node.bench.messages import BoundAlone
from pilotlight.store_node.bench.raw_read import RawRead
from pilotlight.store_node.bench.samples import PHASES, Parts, phases_of
from pilotlight.store_node.protocol import StartOutcome, Tier


def test_from_dram_the_floor_is_bind_and_prefill() -> None:
    # 0.03 + 0.07
    assert PARTS.floor_seconds(start(Tier.DRAM, 0.15)) == pytest.approx(0.10)


def test_from_ssd_the_bytes_come_first() -> None:
    # max(0.2, 0.02) + 0.03 + 0.07
    assert PARTS.floor_seconds(start(Tier.SSD, 0.4)) == pytest.approx(0.30)


def test_a_worker_may_take_longer_than_the_bytes() -> None:
    fast = replace(PARTS, read_seconds=0.025)

    # A warm worker has to be prepared, 0.02; another one to be forked too, 0.01 + 0.02.
    assert fast.floor_seconds(start(Tier.SSD, 0.4)) == pytest.approx(0.025 + 0.10)
    forked = start(Tier.SSD, 0.4, is_worker_warm=False)
    assert fast.floor_seconds(forked) == pytest.approx(0.03 + 0.10)


def test_the_floor_ratio_is_of_the_same_round() -> None:
    quick, slow = PARTS, replace(PARTS, prefill_seconds=0.17)
    first = start(Tier.DRAM, 0.15)

    assert a_round(first, parts=quick).floor_ratio(first) == pytest.approx(1.5)  # 0.15 / 0.10
    assert a_round(first, parts=slow).floor_ratio(first) == pytest.approx(0.75)  # 0.15 / 0.20


def test_what_phases_leave_out_or_count_twice_is_their_error() -> None:
    phases = dict.fromkeys(PHASES, 0.1 / len(PHASES))

    assert start(Tier.DRAM, 0.125, phases=phases).phases_error_percent == pytest.approx(20)
    assert start(Tier.DRAM, 0.08, phases=phases).phases_error_percent == pytest.approx(25)
    assert start(Tier.DRAM, 0.1, phases=phases).phases_error_percent == pytest.approx(0)


def test_phases_are_the_nodes_own() -> None:
    outcome = StartOutcome(
        tier=Tier.SSD,
        bytes_read=1,
        queue_seconds=1.0,
        transfer_seconds=2.0,
        worker_seconds=3.0,
        bind_seconds=4.0,
    )
    told = replace(outcome, handover_seconds=5.0, prefill_seconds=6.0)

    assert list(phases_of(told).values()) == [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
    assert list(phases_of(outcome).values()) == [1.0, 2.0, 3.0, 4.0, 0.0, 0.0]


def test_parts_are_put_together() -> None:
    read = RawRead(seconds=0.2, size_bytes=100, is_direct=True)
    bound = BoundAlone(
        fork_seconds=0.01,
        prepare_seconds=0.02,
        bind_seconds=0.03,
        prefill_seconds=0.07,
        token_id=7,
    )

    assert Parts.of(read, bound) == PARTS


def test_all_ways_should_agree_on_the_first_token() -> None:
    good = start(Tier.DRAM, 0.15)

    assert a_round(good, rivals=(rival(Tier.DRAM, 0.2),)).agrees
    assert not a_round(good, rivals=(rival(Tier.DRAM, 0.2, token_id=8),)).agrees
    assert not a_round(replace(good, token_id=8)).agrees
