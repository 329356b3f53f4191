from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import numpy as np
import pytest

from pilotlight.scheduler.simulation.workload import (
    ClientSource,
    Replay,
    Seeds,
    read_lengths,
    zipf_shares,
)

# Taken before any test takes settings of the outside away.
PUBLISHED = Path(
    os.environ.get("PILOTLIGHT_TRACES", Path(__file__).parents[5] / "shared" / "traces")
)
SEEDS = Seeds(1)


@pytest.fixture
def traces(absent: Callable[[str, str], NoReturn]) -> Path:
    if not PUBLISHED.is_dir():
        absent("traces", "PILOTLIGHT_TRACES names no folder with published traces")
    return PUBLISHED


def test_azures_conversations_are_replayed(traces: Path) -> None:
    file = traces / "azure_llm_2023" / "AzureLLMInferenceTrace_conv.csv"

    found = list(Replay(file=file, popularity=zipf_shares(1, 0.0)).traced(SEEDS, math.inf))

    assert len(found) == 19_366
    assert np.median([prompt for _, _, prompt, _ in found]) == 1020
    assert np.median([output for _, _, _, output in found]) == 129


def test_aegaeons_models_are_told_apart(traces: Path) -> None:
    file = traces / "aegaeon" / "synth-40-0.3-1.0-1.0.csv"

    found = list(Replay(file=file, popularity=zipf_shares(40, 0.0)).timed(SEEDS, math.inf))

    assert len({model for _, model in found}) == 40
    # A minute of 40 models at 0.3 requests per second each.
    assert len(found) == pytest.approx(720, rel=0.15)


def test_gsm8k_and_sharegpt_lend_their_lengths(traces: Path) -> None:
    rng = np.random.default_rng(1)
    short = read_lengths([traces / "gsm8k" / "test.jsonl"], rng, mean_serve_seconds=2.4)
    long = read_lengths(
        [traces / "sharegpt_lengths" / "aibrix_8min_up_and_down.csv"], rng, mean_serve_seconds=8.9
    )

    # The longer ones have two rows without an output, of 2026.
    assert (len(short.output_tokens), len(long.output_tokens)) == (1319, 2024)
    for service, mean in ((short, 2.4), (long, 8.9)):
        seconds = service.draw(rng, 50_000).serve_seconds
        assert seconds is not None
        assert seconds.mean() == pytest.approx(mean, rel=0.05)


def test_a_day_of_servegens_clients_is_as_they_were(traces: Path) -> None:
    files = sorted((traces / "servegen_m_small").glob("*.csv"))
    source = ClientSource(
        files=files,
        requests_per_second=5.0,
        from_seconds=86_400.0,
        span_seconds=86_400.0,
        speedup=24.0,
    )

    requests = Counter(model for _, model in source.timed(SEEDS, math.inf))

    shares = source.shares(SEEDS)
    assert sum(requests.values()) == pytest.approx(18_000, rel=0.1)
    assert requests[int(shares.argmax())] / sum(requests.values()) == pytest.approx(
        shares.max(), rel=0.1
    )
    assert 0 < np.count_nonzero(shares) < len(files) == 43
