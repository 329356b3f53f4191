from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest

from pilotlight.process.bench.errors import BenchFailed
from pilotlight.process.bench.running import RUN_PREFIX, only_bench, run_until_told


def test_a_second_bench_of_a_home_is_refused(tmp_path: Path) -> None:
    with (
        only_bench(tmp_path),
        pytest.raises(BenchFailed, match="a bench runs in"),
        only_bench(tmp_path),
    ):
        pass


def test_what_a_killed_bench_has_left_is_removed(tmp_path: Path) -> None:
    stale = tmp_path / "bench" / f"{RUN_PREFIX}x" / "deeper"
    stale.mkdir(parents=True)

    with only_bench(tmp_path) as directory:
        assert [path.name for path in directory.iterdir()] == ["lock"]


def test_the_result_of_the_work_is_returned() -> None:
    async def work() -> int:
        return 7

    assert run_until_told(work()) == 7


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_the_work_in_order(how: signal.Signals) -> None:
    ended: list[str] = []
    # Whoever runs the tests may have had them ignore it, as nohup does.
    before = signal.signal(how, signal.default_int_handler)

    async def work() -> None:
        try:
            os.kill(os.getpid(), how)
            await asyncio.Event().wait()
        finally:
            # A second one does not cut short what ends the work.
            os.kill(os.getpid(), how)
            await asyncio.sleep(0)
            ended.append("in order")

    try:
        with pytest.raises(KeyboardInterrupt):
            run_until_told(work())
    finally:
        signal.signal(how, before)
    assert ended == ["in order"]
