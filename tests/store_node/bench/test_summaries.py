from __future__ import annotations

from typing import Any

import pytest
from tests.store_node.bench.samples import a_round, rival, start

from pilotlight.store_node.bench import summaries
from pilotlight.store_node.bench.messages import BatchDone, Compared, Differing, PrefillDone
from pilotlight.store_node.bench.outputs import OutputsOf
from pilotlight.store_node.bench.samples import PHASES
from pilotlight.store_node.bench.summaries import Measured
from pilotlight.store_node.bench.throughput import Race, Throughput
from pilotlight.store_node.protocol import Tier


def measured(**given: Any) -> Measured:
    nothing: dict[str, Any] = {"sizes_bytes": {}, "starts": {}, "throughput": {}, "outputs": ()}
    return Measured(**nothing | given)


def race(concurrency: int, ours: float, theirs: float) -> Race:
    """Return a race of so many tokens a second; each request has ten tokens."""
    outputs = tuple((1,) * 10 for _ in range(concurrency))
    n_tokens = 10 * concurrency
    return Race(
        concurrency=concurrency,
        ours=BatchDone(seconds=n_tokens / ours, outputs=outputs),
        theirs=BatchDone(seconds=n_tokens / theirs, outputs=outputs),
    )


def outputs_of(dtype: str, *margins: float | None, n_outputs: int = 200) -> OutputsOf:
    return OutputsOf(
        model="llama",
        dtype=dtype,
        compared=Compared(
            n_requests=n_outputs // 2,
            n_outputs=n_outputs,
            n_cancelled=9,
            differing=tuple(
                Differing(
                    request="r1", way="together", seq=3, expected_id=1, found_id=2, margin=margin
                )
                for margin in margins
            ),
        ),
    )


def test_p90_is_exceeded_by_one_of_ten() -> None:
    assert summaries.p90([5.0]) == 5.0
    # Between 0 and 100, in steps of ten, nine tenths of the way.
    assert summaries.p90([10.0 * n for n in range(11)]) == pytest.approx(90.0)


def test_the_targets_are_about_the_largest_checkpoint_and_a_warm_worker() -> None:
    large = a_round(
        start(Tier.DRAM, 0.12),
        start(Tier.DRAM, 0.50, is_worker_warm=False),
        start(Tier.SSD, 0.36),
    )
    small = a_round(start(Tier.DRAM, 9.0), start(Tier.SSD, 9.0))

    found = summaries.figures(
        measured(sizes_bytes={"s": 1, "l": 2}, starts={"s": [small], "l": [large]})
    )

    assert found["dram_floor_ratio_median"] == pytest.approx(1.2)  # 0.12 / (0.03 + 0.07)
    assert found["ssd_floor_ratio_median"] == pytest.approx(1.2)  # 0.36 / (0.2 + 0.03 + 0.07)


def test_floor_ratios_are_medians() -> None:
    rounds = [a_round(start(Tier.DRAM, total)) for total in (0.11, 0.13, 9.0)]

    found = summaries.figures(measured(sizes_bytes={"m": 1}, starts={"m": rounds}))

    assert found["dram_floor_ratio_median"] == pytest.approx(1.3)
    assert found["ssd_floor_ratio_median"] is None


def test_the_error_of_phases_is_the_largest_of_all_starts() -> None:
    off = dict.fromkeys(PHASES, 0.095 / len(PHASES))
    rounds = {
        "a": [a_round(start(Tier.DRAM, 0.1))],
        "b": [a_round(start(Tier.DRAM, 0.1, phases=off), start(Tier.SSD, 0.3))],
    }

    found = summaries.figures(measured(sizes_bytes={"a": 1, "b": 2}, starts=rounds))

    assert found["phases_sum_error_percent_max"] == pytest.approx(5)  # 0.095 of 0.1
    assert found["phases_sum_error_percent_median"] == pytest.approx(0)


def test_a_row_for_each_way_of_starting_with_its_rivals() -> None:
    rounds = [
        a_round(
            start(Tier.SSD, 0.3),
            start(Tier.SSD, 0.4, is_worker_warm=False),
            rivals=(rival(Tier.SSD, 0.6), rival(Tier.SSD, 4.0, is_imported=False)),
        ),
        a_round(
            start(Tier.SSD, 0.5),
            start(Tier.SSD, 0.4, is_worker_warm=False),
            rivals=(rival(Tier.SSD, 0.8),),
        ),
    ]

    warm, forked = summaries.start_rows(measured(sizes_bytes={"m": 1}, starts={"m": rounds}))

    assert (warm["tier"], warm["worker"], forked["worker"]) == ("ssd", "warm", "forked")
    assert warm["first_token_seconds"] == pytest.approx(0.4)  # of 0.3 and 0.5
    assert warm["transfer_seconds"] == pytest.approx(0.3)  # 0.1 less than each
    assert warm["imported_seconds"] == pytest.approx(0.7)  # of 0.6 and 0.8
    assert warm["fresh_seconds"] == pytest.approx(4.0)


def test_parts_of_a_start_have_the_disks_rate() -> None:
    rounds = [a_round(start(Tier.DRAM, 0.15))]

    (row,) = summaries.part_rows(measured(sizes_bytes={"m": 100}, starts={"m": rounds}))

    assert row["read_bytes_per_second"] == pytest.approx(500)  # 100 bytes in 0.2 s
    assert row["all_tokens_agree"]


def test_throughput_is_held_to_the_worst_of_all_medians() -> None:
    throughput = {
        "a": Throughput(races=[race(1, 20, 10), race(4, 90, 60)], prefills={}),
        "b": Throughput(races=[race(1, 10, 10), race(1, 14, 10), race(1, 12, 10)], prefills={}),
    }

    found = summaries.figures(measured(throughput=throughput))

    # a: 2 and 1.5; b: 12 beside 10.
    assert found["throughput_ratio_to_transformers_cb"] == pytest.approx(1.2)


def test_prefills_are_held_to_the_worst_too() -> None:
    def done(engine: float, plain: float) -> PrefillDone:
        return PrefillDone(engine_seconds=engine, plain_seconds=plain)

    prefills = {64: [done(0.9, 1.0)], 256: [done(1.0, 1.0), done(1.3, 1.0), done(1.04, 1.0)]}

    found = summaries.figures(measured(throughput={"m": Throughput(races=[], prefills=prefills)}))

    assert found["prefill_ratio_to_plain_max"] == pytest.approx(1.04)


def test_unequal_outputs_are_a_count_in_float64_and_a_share_in_float32() -> None:
    outputs = (
        outputs_of("float64"),
        outputs_of("float64", 1e-6),
        outputs_of("float32", 1e-6, 2e-6, n_outputs=300),
        outputs_of("float32", n_outputs=100),
    )

    found = summaries.figures(measured(outputs=outputs))

    assert found["outputs_unequal_float64"] == 1
    assert found["outputs_unequal_fp32_percent"] == pytest.approx(0.5)  # 2 of 400
    assert found["outputs_unequal_fp32_unexplained"] == 0


def test_a_difference_that_is_no_near_tie_is_unexplained() -> None:
    outputs = (outputs_of("float32", 1e-6, 1e-2, None),)

    found = summaries.figures(measured(outputs=outputs))
    (row,) = summaries.output_rows(measured(outputs=outputs))

    assert found["outputs_unequal_fp32_unexplained"] == 2
    assert (row["unequal"], row["unexplained"], row["largest_margin"]) == (3, 2, 1e-2)


def test_what_was_not_measured_has_no_figure_and_no_target() -> None:
    found = summaries.figures(measured())

    assert set(found.values()) == {None}
    assert summaries.targets(found) == []


def test_some_targets_are_a_least_and_some_a_most() -> None:
    found = summaries.figures(measured()) | {
        "dram_floor_ratio_median": 1.5,
        "ssd_floor_ratio_median": 1.26,
        "throughput_ratio_to_transformers_cb": 0.99,
    }

    assert {target.figure: target.is_met for target in summaries.targets(found)} == {
        "dram_floor_ratio_median": True,
        "ssd_floor_ratio_median": False,
        "throughput_ratio_to_transformers_cb": False,
    }
