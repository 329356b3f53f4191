"""A whole node whose workers die, hang and are stopped in the midst of whatever they do."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections import Counter
from collections.abc import AsyncGenerator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest

from pilotlight.store_node.core.events import Event, LoadSucceeded, WorkerPrepared
from pilotlight.store_node.engines.token_hash import expected_ids
from pilotlight.store_node.protocol import FinishReason, ReplicaState, ReplicaStatus, TokenBatch
from pilotlight.store_node.protocol.refusals import ErrorCode
from pilotlight.store_node.protocol.statuses import refusal_of
from pilotlight.store_node.shell import arena
from pilotlight.store_node.shell.inbox import Inbox
from pilotlight.store_node.testing.client import NodeClient
from pilotlight.store_node.testing.harness import NodeHarness, make_checkpoint

pytestmark = pytest.mark.integration

N_CHUNKS = 12
"""Of the pool: 4 of DRAM and 4 for each of 2 devices."""

FOR_EVER = {"context_tokens": "10000000", "decode_seconds": "0.01"}
"""Options of an engine that has a token every 10 ms, as many as are asked for."""


class Happenings:
    """What the core of a node in this process is told."""

    def __init__(self) -> None:
        self._kinds: list[type[Event]] = []
        self._changed = asyncio.Event()

    def note(self, event: Event) -> None:
        self._kinds.append(type(event))
        self._changed.set()

    async def wait_for(self, *kinds: type[Event]) -> None:
        async with asyncio.timeout(10.0):
            while not set(kinds) <= set(self._kinds):
                self._changed.clear()
                await self._changed.wait()


@pytest.fixture
def happenings(monkeypatch: pytest.MonkeyPatch) -> Happenings:
    told, post = Happenings(), Inbox.post

    def note(self: Inbox, event: Event) -> None:
        told.note(event)
        post(self, event)

    monkeypatch.setattr(Inbox, "post", note)
    return told


@pytest.fixture
def loads_may_end(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Return what has to be set before any load ends."""
    gate, end_of = threading.Event(), arena._end_of

    def wait_and_end(*arguments: object) -> object:
        assert gate.wait(60.0)
        return end_of(*arguments)  # type: ignore[arg-type]  # passed on

    monkeypatch.setattr(arena, "_end_of", wait_and_end)
    yield gate
    gate.set()


@dataclass(frozen=True, slots=True)
class Phase:
    """A part of a replica's life that can be made to last."""

    options: dict[str, str]
    begins_with: tuple[type[Event], ...] = ()
    is_loading: bool = False
    n_tokens: int | None = None
    """That a request has when the phase is reached; None = there is no request."""


PHASES = {
    "taken": Phase({"fail_prepare": "stall"}, is_loading=True),
    "preparing": Phase({"fail_prepare": "stall"}, (LoadSucceeded,)),
    "loading": Phase({}, (WorkerPrepared,), is_loading=True),
    "binding": Phase({"fail_bind": "stall"}, (WorkerPrepared, LoadSucceeded)),
    "idle": Phase({}, (WorkerPrepared, LoadSucceeded)),
    "prefill": Phase({"prefill_seconds": "60"}, n_tokens=0),
    "decode": Phase({"decode_seconds": "60"}, n_tokens=1),
}
START_PHASES = ("taken", "preparing", "loading", "binding")


class Scene:
    """A node on which a replica is in a phase, perhaps with a request."""

    def __init__(self, harness: NodeHarness, gate: threading.Event, phase: Phase) -> None:
        self.harness = harness
        self._gate = gate
        self._phase = phase
        self._reading: asyncio.Task[list[TokenBatch]] | None = None

    async def reach(self, happenings: Happenings) -> None:
        phase, harness = self._phase, self.harness
        if not phase.is_loading:
            self._gate.set()
        assert await harness.client.start("llama", options=phase.options) is None
        await happenings.wait_for(*phase.begins_with)
        if phase.n_tokens is None:
            return
        await harness.controller.wait_state("r1", ReplicaState.READY)
        batches: list[TokenBatch] = []
        stream = harness.client.generate("q1")
        if phase.n_tokens:
            batches.append(await anext(stream))
        self._reading = asyncio.ensure_future(read_on(stream, batches))
        await harness.wait_running(1)

    async def ended_as(self, state: ReplicaState) -> tuple[ReplicaStatus, ErrorCode | None]:
        """Return how the replica ended, and its request."""
        self._gate.set()
        status = await self.harness.controller.wait_state("r1", state)
        if self._reading is None:
            return status, None
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await self._reading
        return status, code_of(caught.value)

    async def check_all_is_back(self) -> None:
        """Both devices, and all chunks, serve again."""
        free, cached, bound = self.harness.accounts()
        assert (free + cached + bound, bound) == (N_CHUNKS, 0)
        await self.harness.wait_running(0)
        for replica in ("after-1", "after-2"):
            await self.harness.run("llama", replica)
            assert len(await self.harness.client.text(f"of-{replica}", replica)) == 8


async def read_on(
    stream: AsyncGenerator[TokenBatch], batches: list[TokenBatch]
) -> list[TokenBatch]:
    return batches + [batch async for batch in stream]


def code_of(error: grpc.aio.AioRpcError) -> ErrorCode | None:
    refusal = refusal_of(error)
    return refusal.code if refusal is not None else None


@asynccontextmanager
async def in_phase(
    directory: Path, name: str, happenings: Happenings, gate: threading.Event
) -> AsyncGenerator[Scene]:
    make_checkpoint(directory / "models" / "llama", chunks=2)
    async with NodeHarness.running(directory, heartbeat_seconds=0.1) as harness:
        # The worker of the start is there at once.
        await harness.wait_warm(2)
        scene = Scene(harness, gate, PHASES[name])
        await scene.reach(happenings)
        yield scene


@pytest.mark.parametrize("phase", PHASES)
async def test_worker_killed_in_any_phase_fails_its_replica_and_costs_nothing_else(
    tmp_path: Path, phase: str, happenings: Happenings, loads_may_end: threading.Event
) -> None:
    async with in_phase(tmp_path, phase, happenings, loads_may_end) as scene:
        os.kill(scene.harness.worker_pid("r1"), signal.SIGKILL)
        status, end = await scene.ended_as(ReplicaState.FAILED)

        assert status.error_code == ErrorCode.WORKER_DIED
        assert "was killed by SIGKILL" in status.error
        assert status.devices == ()
        assert end == (ErrorCode.WORKER_DIED if phase in ("prefill", "decode") else None)
        await scene.check_all_is_back()


@pytest.mark.parametrize("phase", PHASES)
async def test_replica_stopped_in_any_phase_ends_and_costs_nothing_else(
    tmp_path: Path, phase: str, happenings: Happenings, loads_may_end: threading.Event
) -> None:
    async with in_phase(tmp_path, phase, happenings, loads_may_end) as scene:
        assert await scene.harness.client.stop() is None
        status, end = await scene.ended_as(ReplicaState.STOPPED)

        assert (status.error, status.log_tail) == ("", "")
        assert end == (ErrorCode.REPLICA_STOPPED if phase in ("prefill", "decode") else None)
        await scene.check_all_is_back()


@pytest.mark.parametrize("phase", START_PHASES)
async def test_start_cancelled_in_any_phase_ends_and_costs_nothing_else(
    tmp_path: Path, phase: str, happenings: Happenings, loads_may_end: threading.Event
) -> None:
    async with in_phase(tmp_path, phase, happenings, loads_may_end) as scene:
        assert await scene.harness.client.cancel_start() is None
        await scene.ended_as(ReplicaState.STOPPED)

        await scene.check_all_is_back()


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        ({"fail_prepare": "error"}, "engine_failed", "RuntimeError"),
        ({"fail_bind": "error"}, "engine_failed", "RuntimeError"),
        ({"fail_prepare": "out_of_memory"}, "out_of_memory", "MemoryError"),
        ({"fail_bind": "out_of_memory"}, "out_of_memory", "MemoryError"),
        ({"fail_prepare": "crash"}, ErrorCode.WORKER_DIED, ""),
        ({"fail_bind": "crash"}, ErrorCode.WORKER_DIED, ""),
        ({"no_such_option": "1"}, "invalid_option", ""),
    ],
)
async def test_engine_that_fails_a_start_leaves_a_code_and_its_last_lines(
    tmp_path: Path, options: dict[str, str], code: str, said: str
) -> None:
    make_checkpoint(tmp_path / "models" / "llama", chunks=2)

    async with NodeHarness.running(tmp_path) as harness:
        assert await harness.client.start("llama", options=options) is None
        failed = await harness.controller.wait_state("r1", ReplicaState.FAILED)

        assert failed.error_code == code
        assert len(failed.error.splitlines()) == 1
        assert said in failed.log_tail
        assert bool(failed.log_tail) is bool(said)
        assert harness.accounts() == (N_CHUNKS - 2, 2, 0)
        await harness.run("llama", "r2")


async def test_worker_may_map_more_than_it_may_allocate(tmp_path: Path) -> None:
    make_checkpoint(tmp_path / "models" / "llama", chunks=4)

    async with NodeHarness.running(tmp_path, worker_memory_bytes=32 << 20) as harness:
        await harness.run("llama")

        assert len(await harness.client.text()) == 8


async def test_worker_that_dies_while_it_runs_many_requests_ends_all_of_them(
    tmp_path: Path,
) -> None:
    make_checkpoint(tmp_path / "models" / "llama")
    options = FOR_EVER | {"crash_after_tokens": "100"}

    async with NodeHarness.running(tmp_path) as harness:
        await harness.run("llama", options=options, concurrency=8)
        ends = await asyncio.gather(
            *(end_of(harness.client, f"q{number}", max_tokens=1000) for number in range(8))
        )

        assert ends == [ErrorCode.WORKER_DIED] * 8
        await harness.controller.wait_state("r1", ReplicaState.FAILED)
        await harness.run("llama", "r2")


async def end_of(
    client: NodeClient, request: str, *, max_tokens: int, deadline_seconds: float = 60.0
) -> ErrorCode | int | None:
    """Return why a request failed, or how many tokens it got."""
    try:
        tokens = await client.text(
            request, max_tokens=max_tokens, deadline_seconds=deadline_seconds
        )
    except grpc.aio.AioRpcError as error:
        return code_of(error)
    return len(tokens)


async def test_request_whose_logits_make_no_sense_fails_alone(tmp_path: Path) -> None:
    make_checkpoint(tmp_path / "models" / "llama")
    options = {"nan_after_tokens": "5", "kv_tokens": "100"}

    async with NodeHarness.running(tmp_path, heartbeat_seconds=0.1) as harness:
        await harness.run("llama", options=options, concurrency=3)
        # Each may hold 3 + max_tokens of the 100.
        ends = await asyncio.gather(
            *(end_of(harness.client, f"q{n}", max_tokens=n) for n in (40, 5, 4))
        )

        assert ends == [ErrorCode.INVALID_LOGITS, 5, 4]
        await harness.wait_running(0)
        [summary] = harness.node.report().summaries
        assert (summary.free_slots, summary.kv_tokens_free) == (3, 100)


async def test_engine_that_stalls_holds_requests_to_their_deadlines_and_no_longer(
    tmp_path: Path,
) -> None:
    make_checkpoint(tmp_path / "models" / "llama")

    async with NodeHarness.running(tmp_path) as harness:
        await harness.run("llama", options={"stall_after_tokens": "2"})

        end = await end_of(harness.client, "q1", max_tokens=8, deadline_seconds=0.5)

        assert end is ErrorCode.DEADLINE_EXCEEDED
        await harness.end()


@pytest.mark.parametrize("way", ["cancels", "leaves"])
@pytest.mark.parametrize(
    ("options", "n_tokens"),
    [
        ({"decode_seconds": "60"}, None),
        ({"prefill_seconds": "60"}, 0),
        (FOR_EVER, 1),
        (FOR_EVER, 5),
    ],
    ids=["admission", "prefill", "first-token", "decode"],
)
async def test_client_that_gives_up_in_any_state_gives_its_place_back(
    tmp_path: Path, options: dict[str, str], n_tokens: int | None, way: str
) -> None:
    make_checkpoint(tmp_path / "models" / "llama")
    options = options | {"kv_tokens": "2000"}

    async with NodeHarness.running(tmp_path, heartbeat_seconds=0.1) as harness:
        await harness.run("llama", options=options, concurrency=1)
        stream = harness.client.generate("q1", max_tokens=1000)
        reading = asyncio.ensure_future(read_tokens(stream, n_tokens or 0))
        if n_tokens is None:
            await asyncio.sleep(0)  # The call has begun, and the node does not know of it yet.
        elif n_tokens == 0:
            await harness.wait_running(1)
        else:
            await reading

        if way == "cancels":
            assert await harness.client.cancel("q1") is None
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
        await stream.aclose()

        await harness.wait_running(0)
        [summary] = harness.node.report().summaries
        assert (summary.free_slots, summary.kv_tokens_free) == (1, 2000)
        assert await harness.client.cancel("q1") is None
        assert await end_of(harness.client, "q1", max_tokens=1) is ErrorCode.STALE_ATTEMPT


async def read_tokens(stream: AsyncGenerator[TokenBatch], n_tokens: int) -> None:
    """Read so many tokens; 0 = read on until something happens."""
    n_read = 0
    async for batch in stream:
        n_read += len(batch.token_ids)
        if n_tokens and n_read >= n_tokens:
            return


async def test_client_that_gives_up_what_has_ended_changes_nothing(tmp_path: Path) -> None:
    make_checkpoint(tmp_path / "models" / "llama")

    async with NodeHarness.running(tmp_path) as harness:
        await harness.run("llama", concurrency=1)
        stream = harness.client.generate("q1", max_tokens=3)
        batches = [batch async for batch in stream]

        assert await harness.client.cancel("q1") is None
        await stream.aclose()

        assert batches[-1].finish_reason is FinishReason.LENGTH
        assert await end_of(harness.client, "q2", max_tokens=3) == 3


async def test_a_thousand_requests_at_once_get_eight_slots_or_an_ordinary_refusal(
    tmp_path: Path,
) -> None:
    make_checkpoint(tmp_path / "models" / "llama")
    options = {"prefill_seconds": "0.01", "decode_seconds": "0.05"}

    async with NodeHarness.running(tmp_path, heartbeat_seconds=0.1) as harness:
        await harness.run("llama", options=options | {"salt": "s"}, concurrency=8)

        async with asyncio.timeout(60.0):
            ends = Counter(
                await asyncio.gather(
                    *(end_of(harness.client, f"q{number}", max_tokens=4) for number in range(1000))
                )
            )

        # All that are no refusal got their four tokens; eight are there from the beginning.
        assert set(ends) == {4, ErrorCode.NO_SLOT}
        assert ends[4] >= 8
        await harness.wait_running(0)
        [summary] = harness.node.report().summaries
        assert summary.free_slots == 8
        text = await harness.client.text("last", prompt=(1, 2, 3), max_tokens=4)
        assert text == list(expected_ids((1, 2, 3), 4, salt="s", vocabulary=1000))


async def test_kv_memory_refuses_what_slots_would_take(tmp_path: Path) -> None:
    make_checkpoint(tmp_path / "models" / "llama")
    options = FOR_EVER | {"kv_tokens": "320", "kv_block_tokens": "16"}

    async with NodeHarness.running(tmp_path, heartbeat_seconds=0.1) as harness:
        await harness.run("llama", options=options, concurrency=100)

        # 3 + 60 tokens take four blocks of 16, of which there are 20: five at once.
        ends = Counter(
            await asyncio.gather(
                *(end_of(harness.client, f"q{number}", max_tokens=60) for number in range(50))
            )
        )
        too_long = await end_of(harness.client, "too-long", max_tokens=400)

        assert set(ends) == {60, ErrorCode.NO_KV_MEMORY}
        assert ends[60] >= 5
        assert too_long is ErrorCode.CONTEXT_EXCEEDED
        await harness.wait_running(0)


async def test_stop_with_a_grace_lets_requests_finish_and_cuts_the_others(
    tmp_path: Path,
) -> None:
    make_checkpoint(tmp_path / "models" / "llama")

    async with NodeHarness.running(tmp_path, heartbeat_seconds=0.1) as harness:
        await harness.run("llama", options=FOR_EVER, concurrency=40)
        lengths = [10] * 20 + [1_000_000] * 20
        requests = [
            asyncio.ensure_future(end_of(harness.client, f"q{number}", max_tokens=length))
            for number, length in enumerate(lengths)
        ]
        await harness.wait_running(40)

        await harness.end(grace_seconds=1.0)

        # Ten tokens take 0.1 s and a million 10,000 s.
        ends = await asyncio.gather(*requests)
        assert ends == [10] * 20 + [ErrorCode.REPLICA_STOPPED] * 20
        assert await end_of(harness.client, "late", max_tokens=1) is ErrorCode.NOT_READY


async def test_node_that_stops_lets_requests_finish_if_it_is_told_to(tmp_path: Path) -> None:
    make_checkpoint(tmp_path / "models" / "llama")
    settings = {"heartbeat_seconds": 0.1, "stop_grace_seconds": 1.0}

    async with AsyncExitStack() as stack:
        async with NodeHarness.running(tmp_path, **settings) as harness:
            client = NodeClient(harness.node.address, harness.node.incarnation)
            await stack.enter_async_context(client)
            await harness.run("llama", options=FOR_EVER, concurrency=8)
            lengths = [30] * 4 + [1_000_000] * 4
            requests = [
                asyncio.ensure_future(end_of(client, f"q{number}", max_tokens=length))
                for number, length in enumerate(lengths)
            ]
            await harness.wait_running(8)

        ends = await asyncio.gather(*requests)

    assert ends == [30] * 4 + [ErrorCode.NODE_STOPPING] * 4


async def test_every_heartbeat_has_one_summary_of_each_replica(tmp_path: Path) -> None:
    make_checkpoint(tmp_path / "models" / "llama")

    async with NodeHarness.running(tmp_path, heartbeat_seconds=0.2) as harness:
        controller, loop = harness.controller, asyncio.get_running_loop()
        for replica in ("r1", "r2"):
            await harness.run("llama", replica)
        controller.updates.clear()
        began = loop.time()
        await controller.wait_for(
            lambda: sum(each.has_summaries for each in controller.updates) == 6
        )

        beats = [each for each in controller.updates if each.has_summaries]
        assert [sorted(s.replica_id for s in each.summaries) for each in beats] == [
            ["r1", "r2"]
        ] * 6
        # Five periods lie between the first and the sixth; the first may come at once.
        assert loop.time() - began >= 5 * 0.2
