"""What a configuration may cost."""

from __future__ import annotations

import itertools
import json
import resource
import signal
from pathlib import Path

import pytest

from pilotlight.store_node.engines.transformers import TransformersEngine, warmup
from pilotlight.store_node.engines.transformers.bounds import OutOfTime, bounded


def _spin() -> None:
    for _ in itertools.count():
        pass


def test_what_takes_too_long_is_ended() -> None:
    bounds = bounded(seconds=0.01, memory_bytes=1 << 30)

    with pytest.raises(OutOfTime, match=r"longer than 0\.01 seconds"), bounds:
        _spin()


def test_what_allocates_too_much_is_ended() -> None:
    with pytest.raises(MemoryError), bounded(seconds=60, memory_bytes=1 << 20):
        bytearray(1 << 28)


def test_nothing_is_left_of_the_bounds() -> None:
    before = (resource.getrlimit(resource.RLIMIT_DATA), signal.getsignal(signal.SIGALRM))

    with bounded(seconds=60, memory_bytes=1 << 30):
        pass

    after = (resource.getrlimit(resource.RLIMIT_DATA), signal.getsignal(signal.SIGALRM))
    assert after == before
    assert len(bytearray(1 << 28)) == 1 << 28


# Where it strikes as an object is finalised, Python tells of it and goes on; it strikes again.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"model_type": "llama", "num_hidden_layers": 1_000_000}, "took longer"),
        ({"model_type": "gpt_neo", "max_position_embeddings": 100_000}, ""),
    ],
    ids=["layers", "mask"],
)
def test_a_configuration_beyond_all_bounds_is_left_out(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    config: dict[str, object],
    reason: str,
) -> None:
    monkeypatch.setattr(warmup, "_MOST_SECONDS", 0.5)
    (tmp_path / "config.json").write_text(json.dumps(config))

    TransformersEngine.preload([tmp_path])

    (record,) = caplog.records
    assert tmp_path.name in record.getMessage()
    assert reason in record.getMessage()
