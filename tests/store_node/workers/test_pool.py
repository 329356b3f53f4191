"""Pools of real processes."""

from __future__ import annotations

import asyncio
import dataclasses
import gc
import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from pilotlight.native_loader import WeightLayout
from pilotlight.store_node.engines import Emission, EngineSetup, Extension, Work, WorkRefused
from pilotlight.store_node.engines.token_hash import expected_ids
from pilotlight.store_node.errors import EngineFailed, UnknownEngine, WorkerDied
from pilotlight.store_node.protocol import RequestId, Sampling
from pilotlight.store_node.workers import (
    Worker,
    WorkerDeath,
    WorkerPool,
    framing,
    log_files,
    nursery,
)
from pilotlight.store_node.workers import pool as pool_module

pytestmark = pytest.mark.integration

TIMED = "pilotlight.store_node.engines.timed:TimedEngine"

NOTHING = WeightLayout(chunk_bytes=4096, files=(), tensors={}, aliases={})

StartPool = Callable[..., Awaitable[WorkerPool]]
UntilWarm = Callable[[WorkerPool, dict[str, int]], Awaitable[None]]
SetupFor = Callable[..., EngineSetup]


class Listener:
    """Keeps what a worker calls back with."""

    def __init__(self, worker: Worker) -> None:
        self.emissions: list[Emission] = []
        self.deaths: list[WorkerDeath] = []
        self._changed = asyncio.Event()
        worker.on_emissions = self._emitted
        worker.on_death = self._died

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(30):
            while not condition():
                await self._changed.wait()
                self._changed.clear()

    async def answer(self, request_id: str) -> list[int]:
        """Return the tokens of a request when it has ended."""

        def of_request() -> list[Emission]:
            return [emission for emission in self.emissions if emission.request_id == request_id]

        await self.until(lambda: any(emission.finish_reason for emission in of_request()))
        return [token_id for emission in of_request() for token_id in emission.token_ids]

    def _emitted(self, emissions: object) -> None:
        assert isinstance(emissions, tuple)
        self.emissions += emissions
        self._changed.set()

    def _died(self, death: WorkerDeath) -> None:
        self.deaths.append(death)
        self._changed.set()


@pytest.fixture
def arena() -> Iterator[int]:
    """Return a descriptor to bind with, where no weights are looked at."""
    descriptor = os.memfd_create("arena")
    yield descriptor
    os.close(descriptor)


def _work(name: str = "a", *, n_prompt: int = 3, max_tokens: int = 4) -> Work:
    return Work(
        request_id=RequestId(name),
        attempt=1,
        prompt_ids=tuple(range(n_prompt)),
        emitted_ids=(),
        sampling=Sampling(temperature=0.0, max_tokens=max_tokens),
    )


def _is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


async def _ready(
    pool: WorkerPool, setup: EngineSetup, arena: int, *, engine: str = "timed"
) -> tuple[Worker, Listener]:
    worker = pool.take(engine)
    listener = Listener(worker)
    await worker.prepare(setup)
    await worker.bind(arena, NOTHING)
    pool.start_ended(worker)
    return worker, listener


async def test_a_taken_worker_is_warm_and_is_replaced_when_its_start_has_ended(
    start_pool: StartPool,
    until_warm: UntilWarm,
    setup_for: SetupFor,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pool_module, "_LONGEST_PAUSE_SECONDS", 3600.0)
    pool = await start_pool(timed=TIMED, warm=2)

    worker = pool.take("timed")
    was_warm = worker.is_warm
    await worker.prepare(setup_for(tmp_path))
    during = pool.warm_count(), len(_children(pool.zygote_pids()["timed"]))
    pool.start_ended(worker)
    pool.start_ended(worker)

    assert was_warm
    assert during == ({"timed": 1}, 2)  # it and the other warm one
    await until_warm(pool, {"timed": 2})
    assert len(_children(pool.zygote_pids()["timed"])) == 3


async def test_no_worker_is_made_in_the_way_of_another_start(
    start_pool: StartPool, until_warm: UntilWarm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool_module, "_LONGEST_PAUSE_SECONDS", 3600.0)
    pool = await start_pool(timed=TIMED, stuck="NeverPrepared", warm=1)
    first, second = pool.take("timed"), pool.take("stuck")

    pool.start_ended(first)
    between = [len(_children(pid)) for pid in pool.zygote_pids().values()]
    pool.start_ended(second)

    assert between == [1, 1]
    await until_warm(pool, {"timed": 1, "stuck": 1})


async def test_a_start_that_hangs_keeps_nobody_from_a_warm_worker_for_long(
    start_pool: StartPool, until_warm: UntilWarm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool_module, "_LONGEST_PAUSE_SECONDS", 0.05)
    pool = await start_pool(timed=TIMED)

    for _ in range(3):
        pool.take("timed")
        await until_warm(pool, {"timed": 1})


async def test_a_worker_is_made_at_once_where_a_start_finds_none(
    start_pool: StartPool,
    setup_for: SetupFor,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pool_module, "_LONGEST_PAUSE_SECONDS", 3600.0)
    pool = await start_pool(timed=TIMED)
    pool.take("timed")

    assert await pool.take("timed").prepare(setup_for(tmp_path)) >= 0


async def test_a_worker_prepares_binds_and_answers(
    start_pool: StartPool, setup_for: SetupFor, arena: int, tmp_path: Path
) -> None:
    pool = await start_pool(timed=TIMED)
    worker = pool.take("timed")
    listener = Listener(worker)

    seconds = await worker.prepare(setup_for(tmp_path, vocabulary="500", context_tokens="64"))
    bound = await worker.bind(arena, NOTHING)
    await worker.admit(_work(max_tokens=20))

    assert await listener.answer("a") == [
        *expected_ids((0, 1, 2), 20, salt="model", vocabulary=500)
    ]
    assert 0 <= seconds < 1
    assert 0 <= bound.seconds < 1
    assert bound.offer.context_tokens == 64


async def test_a_worker_may_be_used_before_its_process_is_there(
    start_pool: StartPool, setup_for: SetupFor, arena: int, tmp_path: Path
) -> None:
    pool = await start_pool(timed=TIMED, is_awaited=False)

    worker, listener = await _ready(pool, setup_for(tmp_path), arena)
    await worker.admit(_work())

    assert len(await listener.answer("a")) == 4


async def test_a_prompt_of_many_tokens_passes(
    start_pool: StartPool, setup_for: SetupFor, arena: int, tmp_path: Path
) -> None:
    pool = await start_pool(timed=TIMED)
    setup = setup_for(tmp_path, context_tokens="300000", prefill_seconds_per_token="0")
    worker, listener = await _ready(pool, setup, arena)

    await worker.admit(_work(n_prompt=200_000))

    assert len(await listener.answer("a")) == 4


async def test_a_refusal_is_raised_and_harms_nobody(
    start_pool: StartPool, setup_for: SetupFor, arena: int, tmp_path: Path
) -> None:
    pool = await start_pool(timed=TIMED)
    worker, listener = await _ready(pool, setup_for(tmp_path, prefill_seconds="0.2"), arena)
    await worker.admit(_work("a"))

    with pytest.raises(WorkRefused) as refused:
        await worker.admit(_work("b"))

    assert refused.value.code == "full"
    assert len(await listener.answer("a")) == 4


async def test_a_cancel_takes_effect_within_a_step(
    start_pool: StartPool, setup_for: SetupFor, arena: int, tmp_path: Path
) -> None:
    pool = await start_pool(timed=TIMED)
    worker, listener = await _ready(
        pool, setup_for(tmp_path, prefill_seconds_per_token="10", prefill_seconds="0"), arena
    )
    await worker.admit(_work("long", n_prompt=100))

    worker.cancel(RequestId("long"))
    # Refused as "full" if the cancel before it had not taken effect.
    await worker.admit(_work("b", n_prompt=1))
    worker.cancel(RequestId("b"))
    with pytest.raises(WorkRefused, match="no tokens"):
        await worker.admit(_work("c", n_prompt=0))

    assert listener.emissions == []


async def test_workers_are_made_ready_for_checkpoints_that_are_found_later(
    start_pool: StartPool, setup_for: SetupFor, tmp_path: Path
) -> None:
    pool = await start_pool(odd="Learns", warm=0, checkpoints=(tmp_path / "one",))
    with pytest.raises(EngineFailed, match=r"ready for \['one'\]"):
        await pool.take("odd").prepare(setup_for(tmp_path))

    pool.learn([tmp_path / "one", tmp_path / "two"])

    with pytest.raises(EngineFailed, match=r"ready for \['one', 'two'\]"):
        await pool.take("odd").prepare(setup_for(tmp_path))


async def test_a_fork_waits_for_one_checkpoint_at_most(
    start_pool: StartPool, setup_for: SetupFor, tmp_path: Path
) -> None:
    many = tuple(tmp_path / f"c{number}" for number in range(40))
    pool = await start_pool(odd="Learns", warm=0, checkpoints=many[:20])
    pool.learn(many)

    with pytest.raises(EngineFailed) as refused:
        await pool.take("odd").prepare(setup_for(tmp_path))

    learned = str(refused.value)
    assert "'c15'" in learned
    assert "'c39'" not in learned


async def test_an_attempt_is_prepared_and_released(
    start_pool: StartPool, setup_for: SetupFor, arena: int, tmp_path: Path
) -> None:
    pool = await start_pool(timed=TIMED)
    setup = setup_for(tmp_path, salt="s", vocabulary="1000")
    worker, listener = await _ready(pool, setup, arena)
    expected = expected_ids((0, 1, 2), 6, salt="s", vocabulary=1000)
    held = dataclasses.replace(_work(max_tokens=6), emitted_ids=expected[:2], is_held=True)
    rest = Extension(
        request_id=held.request_id, attempt=2, emitted_ids=expected[2:5], is_held=False
    )

    await worker.admit(held)
    await listener.until(lambda: any(each.is_prepared for each in listener.emissions))
    await worker.extend(rest)

    assert await listener.answer("a") == [expected[5]]
    with pytest.raises(WorkRefused) as refused:
        await worker.extend(rest)
    assert refused.value.code == "unknown"


async def test_an_unknown_engine_is_refused(start_pool: StartPool) -> None:
    pool = await start_pool(timed=TIMED)

    with pytest.raises(UnknownEngine, match="did you mean 'timed'"):
        pool.take("time")


async def test_a_killed_worker_ends_every_call_and_says_so_once(
    start_pool: StartPool, setup_for: SetupFor, tmp_path: Path
) -> None:
    pool = await start_pool(stuck="NeverPrepared")
    worker = pool.take("stuck")
    listener = Listener(worker)
    calls = [asyncio.create_task(worker.prepare(setup_for(tmp_path))) for _ in range(3)]
    await asyncio.sleep(0)
    assert worker.pid is not None

    os.kill(worker.pid, signal.SIGKILL)

    for call in calls:
        with pytest.raises(WorkerDied, match="was killed by SIGKILL"):
            await call
    death = await worker.wait_dead()
    await listener.until(lambda: listener.deaths == [death])
    assert death.signal == signal.SIGKILL
    assert not _is_alive(worker.pid)
    with pytest.raises(WorkerDied):
        await worker.prepare(setup_for(tmp_path))


async def test_kill_ends_a_worker_whatever_it_does(
    start_pool: StartPool, setup_for: SetupFor, tmp_path: Path
) -> None:
    pool = await start_pool(stuck="NeverPrepared")
    worker = pool.take("stuck")
    call = asyncio.create_task(worker.prepare(setup_for(tmp_path)))
    await asyncio.sleep(0)

    worker.kill()

    death = await worker.wait_dead()
    assert worker.pid is not None
    assert not _is_alive(worker.pid)
    assert not worker.log_path.exists()
    assert death.signal == signal.SIGKILL
    with pytest.raises(WorkerDied):
        await call


async def test_a_worker_killed_before_it_has_a_process_is_dead_at_once(
    start_pool: StartPool, setup_for: SetupFor, tmp_path: Path
) -> None:
    pool = await start_pool(timed=TIMED, is_awaited=False)
    worker = pool.take("timed")
    listener = Listener(worker)

    worker.kill()

    assert worker.is_dead
    await listener.until(lambda: len(listener.deaths) == 1)
    with pytest.raises(WorkerDied):
        await worker.prepare(setup_for(tmp_path))


async def test_an_engines_own_error_travels_as_code_and_line(
    start_pool: StartPool, setup_for: SetupFor, tmp_path: Path
) -> None:
    pool = await start_pool(odd="RefusesModel")
    worker = pool.take("odd")
    listener = Listener(worker)

    with pytest.raises(EngineFailed) as failed:
        await worker.prepare(setup_for(tmp_path))

    assert failed.value.code == "unsupported_model"
    assert str(failed.value) == "no such model is known"
    await listener.until(lambda: bool(listener.deaths))
    (death,) = listener.deaths
    assert (death.exit_code, death.code) == (1, "unsupported_model")
    assert death.reason == "no such model is known"
    assert "Traceback" in death.log_tail


async def test_a_bug_in_an_engine_is_named(
    start_pool: StartPool, setup_for: SetupFor, arena: int, tmp_path: Path
) -> None:
    pool = await start_pool(odd="BreaksWhileBinding")
    worker = pool.take("odd")
    await worker.prepare(setup_for(tmp_path))

    with pytest.raises(EngineFailed, match=r"^ZeroDivisionError: a bug in the engine$") as failed:
        await worker.bind(arena, NOTHING)

    assert failed.value.code == "engine_failed"


async def test_an_error_between_calls_is_told_with_the_death(
    start_pool: StartPool, setup_for: SetupFor, arena: int, tmp_path: Path
) -> None:
    pool = await start_pool(odd="BreaksInItsFirstStep")
    worker, listener = await _ready(pool, setup_for(tmp_path), arena, engine="odd")
    await worker.admit(_work())

    await listener.until(lambda: bool(listener.deaths))

    (death,) = listener.deaths
    assert death.code == "out_of_memory"
    assert death.reason == "MemoryError: no room for keys and values"
    with pytest.raises(EngineFailed, match="no room"):
        await worker.admit(_work("b"))


@pytest.mark.parametrize("engine", ["AllocatesBlocks", "AllocatesCrumbs"])
async def test_a_worker_that_allocates_without_end_says_so_and_leaves_the_others_alone(
    start_pool: StartPool, setup_for: SetupFor, tmp_path: Path, engine: str
) -> None:
    pool = await start_pool(hungry=engine, modest="Quiet", memory_bytes=64 << 20)
    modest = pool.take("modest")
    hungry = pool.take("hungry")
    listener = Listener(hungry)

    with pytest.raises(EngineFailed) as failed:
        await hungry.prepare(setup_for(tmp_path))

    assert failed.value.code == "out_of_memory"
    await listener.until(lambda: bool(listener.deaths))
    assert (listener.deaths[0].code, listener.deaths[0].exit_code) == ("out_of_memory", 1)
    assert await modest.prepare(setup_for(tmp_path)) >= 0


async def test_a_worker_that_exits_is_known_by_its_last_line(
    start_pool: StartPool, setup_for: SetupFor, tmp_path: Path
) -> None:
    pool = await start_pool(odd="Exits")
    worker = pool.take("odd")

    with pytest.raises(WorkerDied, match="exit code 3; its last line: these are my last words"):
        await worker.prepare(setup_for(tmp_path))

    assert worker.log_path.exists()


async def test_only_the_last_logs_of_failed_workers_are_kept(
    start_pool: StartPool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_files, "MOST_KEPT", 2)
    logs = tmp_path / "logs"
    logs.mkdir()
    for age in range(5):
        (logs / f"timed-9{age}.log").write_text("x")
        os.utime(logs / f"timed-9{age}.log", (1000 - age, 1000 - age))
    (logs / "timed-2-91.log").write_text("of an engine timed-2")

    await start_pool(timed=TIMED)

    kept = {"timed-1.log", "timed-90.log", "timed-91.log", "timed-2-91.log", "timed-zygote.log"}
    assert {path.name for path in logs.iterdir()} == kept


async def test_a_worker_that_sends_nonsense_is_killed(
    start_pool: StartPool, setup_for: SetupFor, tmp_path: Path
) -> None:
    pool = await start_pool(odd="WritesNonsense")
    worker = pool.take("odd")

    with pytest.raises(WorkerDied, match="was killed by SIGKILL"):
        await worker.prepare(setup_for(tmp_path))


async def test_a_worker_inherits_nothing_but_its_connection_and_log(
    start_pool: StartPool, setup_for: SetupFor, tmp_path: Path
) -> None:
    pool = await start_pool(odd="Snoops", warm=3)
    worker = pool.take("odd")

    await worker.prepare(setup_for(tmp_path))

    seen = json.loads((tmp_path / "seen.json").read_text())
    targets = sorted(target for target in seen["descriptors"].values() if target != "gone")
    targets = [target for target in targets if not target.startswith("/proc/")]
    log = str(worker.log_path)
    assert targets[:-1] == sorted(["/dev/null", log, log])
    assert targets[-1].startswith("socket:")
    assert seen["parent"] == pool.zygote_pids()["odd"]


async def test_ctrl_c_ends_no_worker(
    start_pool: StartPool, setup_for: SetupFor, tmp_path: Path
) -> None:
    pool = await start_pool(timed=TIMED)
    worker = pool.take("timed")
    assert worker.pid is not None

    os.kill(worker.pid, signal.SIGINT)
    os.kill(pool.zygote_pids()["timed"], signal.SIGINT)

    assert await worker.prepare(setup_for(tmp_path)) >= 0


async def test_with_its_zygote_all_workers_die_and_others_follow(
    start_pool: StartPool, until_warm: UntilWarm, setup_for: SetupFor, arena: int, tmp_path: Path
) -> None:
    pool = await start_pool(timed=TIMED)
    worker, listener = await _ready(pool, setup_for(tmp_path), arena)
    await until_warm(pool, {"timed": 1})
    first = pool.zygote_pids()["timed"]

    os.kill(first, signal.SIGKILL)
    await listener.until(lambda: bool(listener.deaths))
    await until_warm(pool, {"timed": 0})
    await until_warm(pool, {"timed": 1})

    assert worker.pid is not None
    assert not _is_alive(worker.pid)
    assert pool.zygote_pids()["timed"] != first
    other, others = await _ready(pool, setup_for(tmp_path), arena)
    await other.admit(_work())
    assert len(await others.answer("a")) == 4


async def test_an_engine_that_can_not_be_preloaded_fails_those_who_wait(
    start_pool: StartPool, setup_for: SetupFor, tmp_path: Path
) -> None:
    pool = await start_pool(odd="CanNotBePreloaded", is_awaited=False)

    with pytest.raises(EngineFailed, match="needs hardware that is not here") as failed:
        await pool.take("odd").prepare(setup_for(tmp_path))

    assert failed.value.code == "unsupported_model"


async def test_an_engine_that_can_not_be_imported_fails_those_who_wait(
    start_pool: StartPool, setup_for: SetupFor, tmp_path: Path
) -> None:
    pool = await start_pool(odd="no_such_module:Engine", is_awaited=False)

    with pytest.raises(EngineFailed, match="No module named 'no_such_module'"):
        await pool.take("odd").prepare(setup_for(tmp_path))


async def test_no_worker_is_forked_from_a_process_with_threads(
    start_pool: StartPool, setup_for: SetupFor, tmp_path: Path
) -> None:
    pool = await start_pool(odd="LeavesAThread", is_awaited=False)

    with pytest.raises(EngineFailed, match="left 2 threads"):
        await pool.take("odd").prepare(setup_for(tmp_path))


async def test_a_message_that_is_too_large_fails_its_worker_alone(
    start_pool: StartPool,
    setup_for: SetupFor,
    arena: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pool = await start_pool(timed=TIMED)
    worker, listener = await _ready(pool, setup_for(tmp_path), arena)
    monkeypatch.setattr(framing, "MAX_FRAME_BYTES", 1000)

    with pytest.raises(EngineFailed, match=r"^a Admit of \d+ bytes is too large$") as failed:
        await worker.admit(_work(n_prompt=2000))

    assert failed.value.code == "too_large"
    await listener.until(lambda: bool(listener.deaths))
    assert listener.deaths[0].reason == str(failed.value)


async def test_a_zygote_that_does_not_fork_is_replaced(
    start_pool: StartPool,
    until_warm: UntilWarm,
    setup_for: SetupFor,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(nursery, "_FORK_SECONDS", 0.5)
    pool = await start_pool(timed=TIMED)
    zygote = pool.zygote_pids()["timed"]
    os.kill(zygote, signal.SIGSTOP)
    pool.take("timed")
    unborn = pool.take("timed")

    unborn.kill()

    async with asyncio.timeout(10):
        await unborn.wait_dead()
    await until_warm(pool, {"timed": 1})
    assert pool.zygote_pids()["timed"] != zygote
    assert await pool.take("timed").prepare(setup_for(tmp_path)) >= 0


async def test_workers_that_came_and_went_leave_nothing_open(
    start_pool: StartPool, until_warm: UntilWarm, setup_for: SetupFor, arena: int, tmp_path: Path
) -> None:
    pool = await start_pool(timed=TIMED)

    def n_open() -> list[int]:
        zygote = pool.zygote_pids()["timed"]
        return [len(os.listdir(f"/proc/{pid}/fd")) for pid in ("self", zygote)]

    async def come_and_go() -> None:
        worker, listener = await _ready(pool, setup_for(tmp_path), arena)
        await worker.admit(_work())
        await listener.answer("a")
        worker.kill()
        await worker.wait_dead()
        await until_warm(pool, {"timed": 1})

    await come_and_go()
    gc.collect()
    early = n_open()
    for _ in range(10):
        await come_and_go()

    # That a worker is warm may be known before its pidfd has come, and what earlier tests left to
    # be collected may go meanwhile; one left open by each of ten workers would show.
    assert all(late - before < 5 for late, before in zip(n_open(), early, strict=True))
    assert sorted(os.listdir(tmp_path / "logs")) == ["timed-12.log", "timed-zygote.log"]


async def test_closing_leaves_no_process(
    start_pool: StartPool, setup_for: SetupFor, tmp_path: Path
) -> None:
    pool = await start_pool(stuck="NeverPrepared", timed=TIMED, warm=2)
    worker = pool.take("stuck")
    call = asyncio.create_task(worker.prepare(setup_for(tmp_path)))
    await asyncio.sleep(0)
    zygotes = pool.zygote_pids().values()
    children = [pid for zygote in zygotes for pid in _children(zygote)]

    await pool.close()

    with pytest.raises(WorkerDied):
        await call
    assert len(children) >= 4
    assert not any(_is_alive(pid) for pid in (*zygotes, *children))


async def test_a_zygote_that_does_not_answer_is_ended_too(start_pool: StartPool) -> None:
    pool = await start_pool(timed=TIMED)
    zygote = pool.zygote_pids()["timed"]
    (child,) = _children(zygote)

    os.kill(zygote, signal.SIGSTOP)
    for _ in range(2):
        pool.take("timed")
    async with asyncio.timeout(10):
        await pool.close()

    assert not _is_alive(zygote)
    assert not _is_alive(child)


_NODE = """
import asyncio, pathlib, sys
from pilotlight.process.logs import configure_logs
from pilotlight.store_node.workers import WorkerPool

async def main():
    pool = WorkerPool(engines={"timed": sys.argv[1]}, threads=1, checkpoints=[],
                      log_directory=pathlib.Path(sys.argv[2]), warm=2)
    warm = asyncio.Event()
    pool.on_change = lambda: pool.warm_count() == {"timed": 2} and warm.set()
    await pool.start()
    await warm.wait()
    print(pool.zygote_pids()["timed"], flush=True)
    await asyncio.sleep(600)

configure_logs()
asyncio.run(main())
"""


def test_nothing_outlives_a_node_that_is_killed(tmp_path: Path) -> None:
    node = subprocess.Popen(
        [sys.executable, "-c", _NODE, TIMED, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    with node:
        assert node.stdout is not None
        zygote = int(node.stdout.readline())
        pids = [zygote, *_children(zygote)]
        watched = [os.pidfd_open(pid) for pid in pids]

        node.kill()

    for pidfd in watched:
        _wait_for_end(pidfd)
        os.close(pidfd)
    assert len(pids) == 3
    assert not any(_is_alive(pid) for pid in pids)


def _wait_for_end(pidfd: int) -> None:
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    assert poll.poll(10_000), "a process has outlived its node by 10 seconds"


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
