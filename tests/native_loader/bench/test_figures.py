from __future__ import annotations

import pytest
from tests.native_loader.bench.samples import RAW, loaded, measured, runs

from pilotlight.native_loader.bench import figures
from pilotlight.native_loader.bench.messages import Loaded
from pilotlight.native_loader.bench.recipes import Layout
from pilotlight.native_loader.bench.rows import (
    ablation_rows,
    adapter_rows,
    comparison_rows,
    load_rows,
    slice_rows,
)
from pilotlight.native_loader.bench.runs import Run

COLD = (
    runs(RAW, loaded(0.9), loaded(0.9)),
    runs("raw 8 x 1 MiB", loaded(1.0), loaded(1.0)),
    runs("pool", loaded(1.0, 1.2), loaded(1.0, 1.2)),
    runs("fresh", loaded(1.2, 1.5), loaded(1.2, 1.5)),
    runs("safetensors", loaded(0.1, 3.0), loaded(0.1, 3.0)),
    runs("torch", loaded(1.4), loaded(1.4), layout=Layout.PICKLED),
    runs(RAW, loaded(0.9), loaded(0.9), layout=Layout.PACKED),
    runs("pool", loaded(0.9, 1.0), loaded(0.9, 1.0), layout=Layout.PACKED),
)


def test_the_limit_is_the_best_reader_in_the_same_rounds() -> None:
    rows = {(row["layout"], row["loader"]): row for row in load_rows(measured(*COLD), "cold")}

    assert rows["single", RAW]["is_limit"]
    assert not rows["single", "raw 8 x 1 MiB"]["is_limit"]
    assert rows["single", "pool"]["load_of_limit"] == pytest.approx(0.9)
    assert rows["single", "pool"]["of_limit"] == pytest.approx(0.75)
    # Of who maps lazily, only what was touched tells; pickles hold the same bytes.
    assert rows["single", "safetensors"]["load_of_limit"] is None
    assert rows["single", "safetensors"]["of_limit"] == pytest.approx(0.3)
    assert rows["bin", "torch"]["of_limit"] == pytest.approx(0.9 / 1.4)
    assert rows["single", RAW]["of_limit"] is None


def test_ours_is_compared_with_every_peer_touch_and_all() -> None:
    rows = {
        (row["layout"], row["ours"], row["peer"]): row
        for row in comparison_rows(measured(*COLD), "cold")
    }

    # A packed checkpoint is compared with what the peers read from the one file.
    assert rows.keys() == {
        (layout, ours, peer)
        for layout, ours in [("single", "pool"), ("single", "fresh"), ("packed", "pool")]
        for peer in ("safetensors", "torch")
    }
    assert rows["single", "pool", "safetensors"]["ratio"] == pytest.approx(2.5)
    assert rows["packed", "pool", "safetensors"]["peer_layout"] == "single"
    assert rows["single", "fresh", "torch"]["ahead"] == "NOT AHEAD"
    assert rows["single", "pool", "torch"]["ahead"] == "ahead"


def test_figures_of_cold_loads_are_those_of_the_worst_layout() -> None:
    found = figures.figures(measured(*COLD))

    assert found["peers_measured"] == 2
    assert found["cold_pool_ratio_to_limit"] == pytest.approx(0.9)
    assert found["cold_pool_touched_ratio_to_limit"] == pytest.approx(0.75)
    assert found["cold_fresh_ratio_to_limit"] == pytest.approx(0.75)
    # 1.4 s of torch.load beside 1.5 s.
    assert found["speedup_over_best_peer_cold"] == pytest.approx(1.4 / 1.5)
    assert found["cold_comparisons_not_ahead"] == 1


def test_without_readers_there_are_no_ratios_to_a_limit() -> None:
    found = figures.figures(measured(runs("pool", loaded(1.0)), runs("torch", loaded(2.0))))

    assert found["cold_pool_ratio_to_limit"] is None
    assert "cold_pool_ratio_to_limit" not in {
        target.figure for target in figures.targets(measured(runs("pool", loaded(1.0))))
    }


def test_nothing_measured_has_no_figures() -> None:
    assert set(figures.figures(measured()).values()) == {None}
    assert figures.targets(measured()) == []


@pytest.mark.parametrize(("huge_bytes", "target"), [(100, 1.25), (10, 3.0)])
def test_what_an_attached_pool_is_held_to_follows_its_pages(huge_bytes: int, target: float) -> None:
    found = measured(
        runs("attach", loaded(0.002, 0.05), part="dram"),
        runs("safetensors", loaded(0.001, 0.04), part="dram"),
        held_bytes=100,
        held_huge_bytes=huge_bytes,
    )

    values = figures.figures(found)
    targets = {each.figure: each for each in figures.targets(found)}

    assert values["dram_attach_seconds"] == pytest.approx(0.002)
    assert values["dram_touch_ratio_to_safetensors_hot"] == pytest.approx(1.25)
    assert targets["dram_touch_ratio_to_safetensors_hot"].target == target


def test_adapters_are_measured_as_a_batch_and_one_by_one() -> None:
    def adapters(loader: str, each: Loaded) -> list[Run]:
        return runs(loader, each, part="adapters", checkpoint="adapters")

    found = measured(
        adapters(RAW, loaded(0.8)),
        adapters(f"{RAW} each", loaded(1.0, each_seconds=(0.004, 0.006, 0.005))),
        adapters("batch", loaded(1.0, 1.1, attach_seconds=0.001)),
        adapters("one-by-one", loaded(2.0, each_seconds=(0.010, 0.010, 0.011))),
        adapters("safetensors", loaded(0.5, 3.3, each_seconds=(0.01, 0.01, 0.01))),
    )

    values = figures.figures(found)
    rows = {row["loader"]: row for row in adapter_rows(found)}

    assert values["lora_batch_ratio_to_limit"] == pytest.approx(0.8)
    assert values["lora_single_ratio_to_limit"] == pytest.approx(0.5)
    assert values["lora_attach_p50_seconds"] == pytest.approx(0.001)
    assert values["lora_batch_comparisons_not_ahead"] == 0
    assert rows["one-by-one"]["one_seconds"] == pytest.approx(0.010)
    assert rows["batch"]["one_of_limit"] is None


def test_slices_are_held_to_one_reading_of_the_checkpoint() -> None:
    found = measured(
        runs("sliced for 1", loaded(1.0), part="slices"),
        runs("sliced for 8", loaded(1.0, size=1.02), part="slices"),
    )

    assert [row["disk_ratio"] for row in slice_rows(found)] == [1.0, 1.02]
    assert figures.figures(found)["tensor_parallel_disk_ratio_max"] == 1.02
    (target,) = figures.targets(found)
    assert not target.is_met


def test_a_gpu_is_measured_beside_the_slower_of_disk_and_link() -> None:
    some = (
        runs(RAW, loaded(0.5), loaded(0.2), part="gpu"),
        runs("gpu", loaded(0.5), loaded(0.5), part="gpu"),
        runs("pool-to-gpu", loaded(0.5), loaded(0.5), part="gpu"),
    )
    link = runs("link", loaded(0.4), loaded(0.4), part="gpu")

    values = figures.figures(measured(*some, link))

    # 0.5 s of the disk, then 0.4 s of the link; 0.4 s of the link twice.
    assert values["ssd_to_gpu_ratio_to_limit"] == pytest.approx(0.9)
    assert values["h2d_ratio_to_limit"] == pytest.approx(0.8)
    without = figures.figures(measured(*some))
    assert (without["ssd_to_gpu_ratio_to_limit"], without["h2d_ratio_to_limit"]) == (None, None)
    assert "h2d_ratio_to_limit" not in figures.figures(measured())


def test_each_step_of_the_ablation_is_compared_with_the_one_before() -> None:
    found = measured(
        runs("bulk", loaded(2.0), part="ablation"),
        runs("by-tensor", loaded(4.0), part="ablation"),
        runs("direct", loaded(1.0), part="ablation"),
    )

    rows = ablation_rows(found)

    assert [row["step"] for row in rows] == ["by-tensor", "bulk", "direct"]
    assert [row["gain"] for row in rows] == [None, 2.0, 2.0]
    assert [row["bytes_per_second"] for row in rows] == [0.25e9, 0.5e9, 1e9]
