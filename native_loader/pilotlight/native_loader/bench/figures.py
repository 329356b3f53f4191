"""What all runs together say: medians, ratios, and the figures that a release is held to."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from pilotlight.native_loader.bench.messages import Loaded
from pilotlight.native_loader.bench.peers import PEERS
from pilotlight.native_loader.bench.ratios import Ratio, ratio_of
from pilotlight.native_loader.bench.rows import (
    Row,
    comparison_rows,
    median_of,
    median_ratio,
    one_to_limit,
    slice_rows,
    to_limit,
)
from pilotlight.native_loader.bench.runs import (
    FROM_POOL,
    ONE_BY_ONE,
    Measured,
    load_seconds,
    total_seconds,
)
from pilotlight.process.bench.targets import Target

COLD_POOL_RATIO = 0.95
COLD_FRESH_RATIO = 0.85
SPEEDUP = 1.0
ATTACH_SECONDS = 0.05
TOUCH_RATIO_HUGE = 1.25
TOUCH_RATIO = 3.0
ADAPTERS_RATIO = 0.8
ADAPTER_RATIO = 0.7
ADAPTER_ATTACH_SECONDS = 0.002
LINK_RATIO = 0.95
GPU_RATIO = 0.9
DISK_RATIO = 1.01
"""Headers are read twice, and blocks are whole."""

HUGE_SHARE = 0.9
"""Of a pool has huge pages where it can be said to have them."""


def figures(measured: Measured) -> dict[str, float | None]:
    """Return the figures that a release is held to; None where it was not measured."""
    cold, adapters = comparison_rows(measured, "cold"), comparison_rows(measured, "adapters")
    packages = {peer.name: peer.package for peer in PEERS}
    there = {packages[run.loader] for run in measured.runs if run.loader in packages}
    return {
        "peers_measured": len(there) if measured.runs else None,
        "cold_pool_ratio_to_limit": _least_to_limit(measured, "pool", load_seconds),
        "cold_pool_touched_ratio_to_limit": _least_to_limit(measured, "pool", total_seconds),
        "cold_fresh_ratio_to_limit": _least_to_limit(measured, "fresh", load_seconds),
        "cold_fresh_touched_ratio_to_limit": _least_to_limit(measured, "fresh", total_seconds),
        "speedup_over_best_peer_cold": min(
            (row["ratio"] for row in cold if row["ours"] == "fresh"), default=None
        ),
        "cold_comparisons_not_ahead": _not_ahead(cold),
        **_dram_figures(measured),
        **_gpu_figures(measured),
        "tensor_parallel_disk_ratio_max": max(
            (row["disk_ratio"] for row in slice_rows(measured)), default=None
        ),
        **_adapter_figures(measured),
        "lora_batch_comparisons_not_ahead": _not_ahead(
            [row for row in adapters if row["ours"] == "batch"]
        ),
    }


def targets(measured: Measured) -> list[Target]:
    """Return the targets of the figures that there are."""
    found = figures(measured)
    touch = TOUCH_RATIO_HUGE if has_huge_pages(measured) else TOUCH_RATIO
    wanted: Mapping[str, tuple[float, bool]] = {
        "cold_pool_ratio_to_limit": (COLD_POOL_RATIO, True),
        "cold_fresh_ratio_to_limit": (COLD_FRESH_RATIO, True),
        "speedup_over_best_peer_cold": (SPEEDUP, True),
        "cold_comparisons_not_ahead": (0, False),
        "dram_attach_seconds": (ATTACH_SECONDS, False),
        "dram_touch_ratio_to_safetensors_hot": (touch, False),
        "lora_batch_ratio_to_limit": (ADAPTERS_RATIO, True),
        "lora_batch_comparisons_not_ahead": (0, False),
        "lora_single_ratio_to_limit": (ADAPTER_RATIO, True),
        "lora_attach_p50_seconds": (ADAPTER_ATTACH_SECONDS, False),
        "tensor_parallel_disk_ratio_max": (DISK_RATIO, False),
        "h2d_ratio_to_limit": (LINK_RATIO, True),
        "ssd_to_gpu_ratio_to_limit": (GPU_RATIO, True),
    }
    return [
        Target(figure=name, value=value, target=target, is_least=is_least)
        for name, (target, is_least) in wanted.items()
        if (value := found.get(name)) is not None
    ]


def has_huge_pages(measured: Measured) -> bool:
    """Whether the pool that another process attaches has huge pages."""
    return measured.held_bytes > 0 and measured.held_huge_bytes >= (
        HUGE_SHARE * measured.held_bytes
    )


def _least_to_limit(
    measured: Measured, loader: str, seconds_of: Callable[[Loaded], float]
) -> float | None:
    """Return the median ratio to the limit on the layout that it is least on."""
    ratios = [to_limit(measured, place, loader, seconds_of) for place in measured.places("cold")]
    return min((ratio.median for ratio in ratios if ratio is not None), default=None)


def _dram_figures(measured: Measured) -> dict[str, float | None]:
    attach: float | None = None
    ratio: Ratio | None = None
    for place in measured.places("dram"):
        runs = measured.loaded(place, "attach")
        attach = median_of(run.load_seconds for run in runs.values())
        ratio = ratio_of(
            measured.seconds(place, "attach", total_seconds),
            measured.seconds(place, "safetensors", total_seconds),
        )
    return {
        "dram_attach_seconds": attach,
        "dram_touch_ratio_to_safetensors_hot": median_ratio(ratio),
    }


def _adapter_figures(measured: Measured) -> dict[str, float | None]:
    batch: Ratio | None = None
    single: Ratio | None = None
    attach: float | None = None
    for place in measured.places("adapters"):
        if "batch" in measured.loaders(place):
            batch = to_limit(measured, place, "batch", load_seconds)
            single = one_to_limit(measured, place, ONE_BY_ONE)
            runs = measured.loaded(place, "batch").values()
            attach = median_of(run.attach_seconds for run in runs if run.attach_seconds is not None)
    return {
        "lora_batch_ratio_to_limit": median_ratio(batch),
        "lora_single_ratio_to_limit": median_ratio(single),
        "lora_attach_p50_seconds": attach,
    }


def _gpu_figures(measured: Measured) -> dict[str, float | None]:
    """Return the figures of a GPU, where there is one."""
    found: dict[str, float | None] = {}
    for place in measured.places("gpu"):
        for name, loader in (
            ("h2d_ratio_to_limit", FROM_POOL),
            ("ssd_to_gpu_ratio_to_limit", "gpu"),
        ):
            found[name] = median_ratio(to_limit(measured, place, loader, load_seconds))
    return found


def _not_ahead(rows: Sequence[Row]) -> int | None:
    return sum(row["ahead"] != "ahead" for row in rows) if rows else None
