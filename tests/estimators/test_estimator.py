from __future__ import annotations

from random import Random
from typing import Any

import msgspec
import numpy as np
import pytest

from pilotlight.estimators import (
    Measurement,
    Phase,
    Priors,
    Quantile,
    Residency,
    StartEstimator,
    Topology,
)
from pilotlight.estimators.calibration import Learned, LogNormal
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


def test_a_copy_over_the_link_teaches_the_link() -> None:
    case = ViewCase()
    small, large = case.model(size_bytes=GIGABYTE), case.model(size_bytes=4 * GIGABYTE)
    case.channel("link", bytes_per_second=1.0e9)
    case.node(dram=[small, large], link="link")
    estimator = StartEstimator(PRIORS)

    estimator.observe(_measurement(bytes_read=0, transfer_seconds=0.11, link="link"))

    times = estimator.start_times(case.view(), np.arange(2), np.array([0]))
    # 0.11 s less 0.01 s to attach: 10 GB/s, at which 4 GB take 0.4 s.
    assert times.phase(Phase.TRANSFER)[:, 0].tolist() == pytest.approx([0.11, 0.41])


def test_estimates_of_a_copy_over_the_link_converge_to_the_truth() -> None:
    draw = Random(1)
    case = ViewCase()
    models = [case.model(size_bytes=size * GIGABYTE) for size in (1, 7, 13)]
    case.channel("link", bytes_per_second=1.0e9)
    case.node(dram=models, link="link")
    view, estimator = case.view(), StartEstimator()

    for _ in range(60):
        model = draw.choice(models)
        # The link carries 25 GB/s; measurements scatter by a hundredth.
        seconds = view.model_size_bytes[model] / 25.0e9 * draw.uniform(0.99, 1.01)
        estimator.observe(
            _measurement(
                size_bytes=int(view.model_size_bytes[model]),
                bytes_read=0,
                transfer_seconds=seconds,
                link="link",
            )
        )

    learned = estimator.start_times(view, np.array(models), np.array([0]))
    truth = view.model_size_bytes / 25.0e9
    # What is added for attaching, 2 ms, is a twentieth of the shortest.
    assert learned.phase(Phase.TRANSFER)[:, 0].tolist() == pytest.approx(truth.tolist(), rel=0.06)


def test_a_copy_that_took_less_than_attaching_still_teaches_the_link() -> None:
    estimator = StartEstimator(PRIORS)

    for seconds in (0.005, 0.0, -1.0):
        estimator.observe(_measurement(bytes_read=0, transfer_seconds=seconds, link="link"))

    lessons = estimator.lessons()
    assert isinstance(lessons, dict)
    # A gigabyte in 0.005 s; nothing takes no time, or less.
    assert lessons["channel"]["by_key"]["link"]["mean"] == pytest.approx(np.log(200e9))
    assert lessons["attach"]["by_key"] == {}


@pytest.mark.parametrize("seed", range(12))
def test_columns_kept_current_are_what_a_fresh_look_at_every_path_gives(seed: int) -> None:
    draw = Random(seed)
    view, estimator = _random_view(draw), StartEstimator(PRIORS)
    models, nodes = np.arange(len(view.model_ids)), np.arange(len(view.node_ids))

    for _ in range(30):
        estimator.observe(_random_measurement(view, draw))
        times = estimator.start_times(view, models, nodes)

        assert np.array_equal(times.seconds, _recomputed(view, estimator))


def _random_view(draw: Random) -> StaticView:
    case = ViewCase()
    models = [
        case.model(size_bytes=draw.randint(0, 20) * GIGABYTE, engine=draw.choice(["one", "two"]))
        for _ in range(4)
    ]
    for name in ("shared", "fast", "link"):
        speed, latency = draw.uniform(0.1, 9.0) * 1e9, draw.choice([0.0, 0.3])
        case.channel(name, bytes_per_second=speed, latency_seconds=latency)
    for _ in range(4):
        case.node(
            ssd=draw.sample(models, 2),
            dram=draw.sample(models, 1),
            disk=draw.choice([None, "", "shared"]),
            other_disks={models[0]: "fast"} if draw.random() < 0.5 else None,
            link=draw.choice(["", "link"]),
            warm_workers=draw.randint(0, 1),
        )
    return case.view()


def _random_measurement(view: StaticView, draw: Random) -> Measurement:
    return _measurement(
        model=draw.choice(view.model_ids),
        node=draw.choice(view.node_ids),
        engine=draw.choice(view.engine_ids),
        channel=draw.choice(view.channel_ids),
        link=draw.choice(["", "link"]),
        bytes_read=draw.choice([0, GIGABYTE]),
        transfer_seconds=draw.uniform(0.001, 9.0),
        worker_seconds=draw.uniform(0.1, 9.0),
        bind_seconds=draw.uniform(0.01, 1.0),
        prefill_seconds=draw.uniform(0.01, 1.0),
    )


def _recomputed(view: StaticView, estimator: StartEstimator) -> np.ndarray[tuple[int, ...], Any]:
    """Return the same column, each cell from the lessons and the path that its bytes take."""
    lessons = msgspec.convert(estimator.lessons(), dict[str, Learned])
    shape = (len(Quantile), len(Phase), len(view.model_ids), len(view.node_ids))
    seconds = np.empty(shape)
    for model, name in enumerate(view.model_ids):
        engine = view.engine_ids[view.model_engine[model]]
        for node, at in enumerate(view.node_ids):
            worker = lessons["worker"].get(f"{engine}@{at}")
            is_warm = bool(view.warm_workers[view.model_engine[model], node])
            cold = 0.0 if is_warm else PRIORS.cold_worker_seconds
            bind, prefill = lessons["bind"].get(name), lessons["prefill"].get(name)
            for quantile in Quantile:
                seconds[quantile, :, model, node] = (
                    _path_seconds(view, lessons, quantile, model, node),
                    _value(worker, quantile) + cold,
                    _value(bind, quantile),
                    _value(prefill, quantile),
                )
    return seconds


def _path_seconds(
    view: StaticView, lessons: dict[str, Learned], quantile: Quantile, model: int, node: int
) -> float:
    flags, disk = Residency(int(view.residency[model, node])), int(view.copy_channel[model, node])
    probed = dict(zip(view.channel_ids, view.channel_bytes_per_second.tolist(), strict=True))
    known = {name: lessons["channel"].get(name, prior=prior) for name, prior in probed.items()}
    speed = {
        name: each.p10 if quantile is Quantile.P90 else each.p50 for name, each in known.items()
    }
    latency = dict(zip(view.channel_ids, view.channel_latency_seconds.tolist(), strict=True))
    topology, at = Topology(view), view.node_ids[node]
    size = float(view.model_size_bytes[model])
    attach = _value(lessons["attach"].get(at), quantile)
    if Residency.DRAM in flags:
        return size * (1.0 / topology.from_dram(at).bytes_per_second(speed)) + attach
    if Residency.SSD not in flags or disk < 0:
        return float("inf")
    path = topology.from_disk(view.channel_ids[disk], at)
    return size * (1.0 / path.bytes_per_second(speed)) + path.latency_seconds(latency) + attach


def _value(known: LogNormal, quantile: Quantile) -> float:
    return known.p90 if quantile is Quantile.P90 else known.p50


def test_a_bandwidths_bad_case_is_the_lower_one() -> None:
    case = ViewCase()
    case.channel("disk", bytes_per_second=2.0e9)

    speeds = StartEstimator(PRIORS).bytes_per_second(case.view())

    assert speeds[Quantile.P50].tolist() == pytest.approx([2.0e9])
    # exp(-1.2816 * 0.5) = 0.527.
    assert speeds[Quantile.P90].tolist() == pytest.approx([2.0e9 * 0.527], rel=1e-3)
