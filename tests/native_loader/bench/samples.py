"""Runs that never happened, for the tests of what is made of them."""

from __future__ import annotations

from typing import Any

from pilotlight.native_loader.bench.messages import Loaded
from pilotlight.native_loader.bench.recipes import Layout
from pilotlight.native_loader.bench.runs import Measured, Run

SIZE_BYTES = 1_000_000_000
RAW = "raw 4 x 1 MiB"


def loaded(
    seconds: float, touched: float | None = None, *, size: float = 1.0, **more: Any
) -> Loaded:
    """Return one load, of which `size` times the checkpoint was read."""
    return Loaded(
        load_seconds=seconds,
        total_seconds=seconds if touched is None else touched,
        size_bytes=SIZE_BYTES,
        cpu_seconds=0.1,
        bytes_read=round(size * SIZE_BYTES),
        **more,
    )


def runs(
    loader: str,
    *all_loaded: Loaded,
    part: str = "cold",
    checkpoint: str = "llama",
    layout: Layout = Layout.SINGLE,
) -> list[Run]:
    """Return the rounds of one loader."""
    return [
        Run(
            part=part,
            checkpoint=checkpoint,
            layout=layout,
            loader=loader,
            round=number,
            loaded=each,
        )
        for number, each in enumerate(all_loaded)
    ]


def measured(*some: list[Run], **more: Any) -> Measured:
    """Return a whole measurement."""
    return Measured(
        runs=[run for each in some for run in each],
        sizes_bytes={"llama": SIZE_BYTES, "adapters": SIZE_BYTES},
        **more,
    )
