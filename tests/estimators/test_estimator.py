from __future__ import annotations

import numpy as np
import pytest

from pilotlight.estimators import Measurement, Phase, Priors, Quantile, StartEstimator
from pilotlight.estimators.testing import EstimatorContract, StaticView, ViewCase
from pilotlight.estimators.testing.view_case import GIGABYTE

PRIORS = Priors(
    bytes_per_second=0.5e9,
    attach_seconds=0.01,
    warm_worker_seconds=0.2,
    cold_worker_seconds=4.0,
    bind_seconds=0.05,
    prefill_seconds=0.1,
)


class TestStartEstimator(EstimatorContract):
    def make_estimator(self) -> StartEstimator:
        return StartEstimator(PRIORS)


def _seconds(view: StaticView, phase: Phase, *, estimator: StartEstimator | None = None) -> float:
    estimator = estimator or StartEstimator(PRIORS)
    times = estimator.start_times(view, np.array([0]), np.array([0]))
    return float(times.phase(phase)[0, 0])


def _measurement(**fields: float | str | None) -> Measurement:
    known: dict[str, object] = {
        "model": "model-0",
        "node": "node-0",
        "engine": "timed",
        "channel": "disk-of-node-0",
        "size_bytes": GIGABYTE,
        "bytes_read": GIGABYTE,
        "transfer_seconds": None,
        "worker_seconds": None,
        "bind_seconds": None,
    }
    return Measurement(**(known | fields))  # type: ignore[arg-type]  # fields are Measurement's


def test_a_transfer_from_ssd_takes_latency_and_bytes_over_the_slowest_hop() -> None:
    case = ViewCase()
    model = case.model(size_bytes=3 * GIGABYTE)
    case.channel("disk", bytes_per_second=2.0e9, latency_seconds=0.25)
    case.channel("link", bytes_per_second=1.5e9, latency_seconds=0.5)
    case.node(ssd=[model], disk="disk", link="link")

    seconds = _seconds(case.view(), Phase.TRANSFER)

    # 0.25 + 0.5 s latency, 3 GB / 1.5 GB/s = 2 s, and 0.01 s to attach.
    assert seconds == pytest.approx(2.76)


def test_a_transfer_is_as_fast_as_the_disk_that_the_copy_lies_on() -> None:
    case = ViewCase()
    here, there = case.model(), case.model()
    case.channel("slow", bytes_per_second=0.1e9)
    case.channel("fast", bytes_per_second=5.0e9)
    case.node(ssd=[here, there], disk="slow", other_disks={there: "fast"})
    case.node(ssd=[here, there], disk="fast", other_disks={there: "slow"})

    times = StartEstimator(PRIORS).start_times(case.view(), np.arange(2), np.arange(2))

    # A gigabyte, and 0.01 s to attach.
    assert times.phase(Phase.TRANSFER).tolist() == [
        pytest.approx([10.01, 0.21]),
        pytest.approx([0.21, 10.01]),
    ]


def test_a_transfer_from_dram_crosses_the_link_only() -> None:
    case = ViewCase()
    model = case.model(size_bytes=3 * GIGABYTE)
    case.channel("link", bytes_per_second=10.0e9)
    case.node(dram=[model], link="link")

    # 3 GB / 10 GB/s = 0.3 s, and 0.01 s to attach.
    assert _seconds(case.view(), Phase.TRANSFER) == pytest.approx(0.31)


def test_the_total_hides_the_worker_behind_the_transfer() -> None:
    case = ViewCase()
    on_ssd, in_dram = case.model(), case.model()
    case.node(ssd=[on_ssd], dram=[in_dram])

    total = StartEstimator(PRIORS).start_times(case.view(), np.arange(2), np.arange(1)).total()

    # From SSD max(1.01, 0.2) + 0.05 + 0.1; from DRAM max(0.01, 0.2) + 0.05 + 0.1.
    assert total[:, 0].tolist() == pytest.approx([1.16, 0.35])


def test_a_node_without_a_warm_worker_starts_one() -> None:
    case = ViewCase()
    model = case.model()
    case.node(ssd=[model], warm_workers=0)

    # 4 s for the process and its imports, then 0.2 s.
    assert _seconds(case.view(), Phase.WORKER) == pytest.approx(4.2)


def test_a_disk_that_no_probe_could_measure_has_the_prior_bandwidth() -> None:
    case = ViewCase()
    model = case.model()
    case.channel("disk", bytes_per_second=0.0)
    case.node(ssd=[model], disk="disk")

    # 1 GB / 0.5 GB/s, and 0.01 s to attach.
    assert _seconds(case.view(), Phase.TRANSFER) == pytest.approx(2.01)


def test_a_node_without_a_disk_starts_only_what_is_in_its_dram() -> None:
    case = ViewCase()
    on_ssd, in_dram = case.model(), case.model()
    case.node(ssd=[on_ssd], dram=[in_dram], disk="")

    total = StartEstimator(PRIORS).start_times(case.view(), np.arange(2), np.arange(1)).total()

    assert np.isfinite(total[:, 0]).tolist() == [False, True]


def test_an_empty_checkpoint_takes_no_time_to_transfer() -> None:
    case = ViewCase()
    model = case.model(size_bytes=0)
    case.node(ssd=[model])
    case.node(ssd=[model], disk="")

    times = StartEstimator(PRIORS).start_times(case.view(), np.array([0]), np.arange(2))

    assert times.phase(Phase.TRANSFER)[0].tolist() == pytest.approx([0.01, float("inf")])


def test_a_measured_load_teaches_its_disk_and_all_who_share_it() -> None:
    case = ViewCase()
    model = case.model()
    for _ in range(2):
        case.node(ssd=[model], disk="shared")
    case.node(ssd=[model])
    estimator = StartEstimator(PRIORS)

    estimator.observe(_measurement(channel="shared", transfer_seconds=4.0))

    times = estimator.start_times(case.view(), np.array([0]), np.arange(3))
    # The shared disk gave 1 GB in 4 s, the other one is as its probe says.
    assert times.phase(Phase.TRANSFER)[0].tolist() == pytest.approx([4.01, 4.01, 1.01])


def test_a_load_from_the_page_cache_teaches_the_disk_nothing() -> None:
    case = ViewCase()
    model = case.model()
    case.node(ssd=[model])
    estimator = StartEstimator(PRIORS)

    estimator.observe(_measurement(transfer_seconds=0.1, teaches_disk=False))

    assert _seconds(case.view(), Phase.TRANSFER, estimator=estimator) == pytest.approx(1.01)


def test_a_start_from_dram_teaches_how_long_attaching_takes() -> None:
    case = ViewCase()
    model = case.model()
    case.node(dram=[model])
    estimator = StartEstimator(PRIORS)

    estimator.observe(_measurement(bytes_read=0, transfer_seconds=0.03))

    assert _seconds(case.view(), Phase.TRANSFER, estimator=estimator) == pytest.approx(0.03)


@pytest.mark.parametrize(
    ("field", "phase"),
    [
        ("worker_seconds", Phase.WORKER),
        ("bind_seconds", Phase.BIND),
        ("prefill_seconds", Phase.PREFILL),
    ],
)
def test_each_phase_learns_from_its_own_measurement(field: str, phase: Phase) -> None:
    case = ViewCase()
    model = case.model()
    case.node(ssd=[model])
    before = StartEstimator(PRIORS)
    estimator = StartEstimator(PRIORS)

    estimator.observe(_measurement(**{field: 0.7}))

    for other in Phase:
        expected = 0.7 if other is phase else _seconds(case.view(), other, estimator=before)
        assert _seconds(case.view(), other, estimator=estimator) == pytest.approx(expected)


def test_a_lesson_counts_on_a_view_that_was_estimated_before() -> None:
    case = ViewCase()
    model = case.model()
    case.node(ssd=[model])
    view = case.view()
    estimator = StartEstimator(PRIORS)
    before = _seconds(view, Phase.TRANSFER, estimator=estimator)

    estimator.observe(_measurement(transfer_seconds=4.0))

    assert before == pytest.approx(1.01)
    assert _seconds(view, Phase.TRANSFER, estimator=estimator) == pytest.approx(4.01)


def test_a_bandwidths_bad_case_is_the_lower_one() -> None:
    case = ViewCase()
    case.channel("disk", bytes_per_second=2.0e9)

    speeds = StartEstimator(PRIORS).bytes_per_second(case.view())

    assert speeds[Quantile.P50].tolist() == pytest.approx([2.0e9])
    # exp(-1.2816 * 0.5) = 0.527.
    assert speeds[Quantile.P90].tolist() == pytest.approx([2.0e9 * 0.527], rel=1e-3)
