"""A whole node with the `timed` engine: its doors, its worker processes, its disk."""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from pilotlight.native_loader import CHUNK_BYTES, Checkpoint, LoadResult
from pilotlight.native_loader.packing.pack import pack
from pilotlight.store_node.protocol import (
    FinishReason,
    NodeUpdate,
    ReplicaId,
    ReplicaState,
    Tier,
)
from pilotlight.store_node.protocol.refusals import ErrorCode
from pilotlight.store_node.protocol.statuses import refusal_of
from pilotlight.store_node.testing.client import NodeClient
from pilotlight.store_node.testing.harness import NodeHarness, make_checkpoint

pytestmark = pytest.mark.integration

NEVER = {"decode_seconds": "60"}
"""Options of an engine that computes one token a minute."""


def code_of(error: grpc.aio.AioRpcError) -> ErrorCode | None:
    refusal = refusal_of(error)
    return refusal.code if refusal is not None else None


async def test_registers_with_all_that_it_has(tmp_path: Path) -> None:
    make_checkpoint(tmp_path / "models" / "llama", chunks=2)

    async with NodeHarness.running(tmp_path) as harness:
        [hello], [report] = harness.controller.hellos, harness.controller.reports

        assert (hello.node_id, hello.incarnation) == ("node", harness.node.incarnation)
        assert (report.node_id, report.incarnation) == ("node", harness.node.incarnation)
        assert report.address == harness.node.address
        assert report.resources.devices == 2
        assert report.resources.device_bytes == report.resources.dram_bytes == 4 * CHUNK_BYTES
        assert [engine.name for engine in report.engines] == ["timed"]
        [llama] = report.checkpoints
        assert (llama.reference, llama.context_tokens) == ("llama", 512)
        assert llama.execution_files == ("config.json",)
        [channel] = report.resources.channels
        assert channel.channel_id == llama.ssd_channel
        assert not channel.measured
        assert harness.accounts() == (12, 0, 0)  # 4 + 2 x 4 chunks


async def test_heartbeats_carry_summaries(tmp_path: Path) -> None:
    make_checkpoint(tmp_path / "models" / "llama")

    async with NodeHarness.running(tmp_path) as harness:
        await harness.run("llama", concurrency=3)
        await harness.controller.wait_for(
            lambda: any(each.summaries for each in harness.controller.updates)
        )

        update = next(each for each in harness.controller.updates if each.summaries)
        assert update.has_summaries
        assert update.accounts is not None
        assert (update.summaries[0].replica_id, update.summaries[0].free_slots) == ("r1", 3)


async def test_idle_replica_is_told_of_before_the_next_heartbeat(tmp_path: Path) -> None:
    make_checkpoint(tmp_path / "models" / "llama")

    async with NodeHarness.running(tmp_path, heartbeat_seconds=3600.0) as harness:
        await harness.run("llama")
        told = len(harness.controller.updates)

        await harness.client.text("q1", "r1")

        def news() -> list[NodeUpdate]:
            return [each for each in harness.controller.updates[told:] if each.has_summaries]

        await harness.controller.wait_for(lambda: bool(news()))
        assert [each.running for each in news()[0].summaries] == [0]


async def test_starts_from_ssd_then_from_dram_and_computes_the_same(tmp_path: Path) -> None:
    make_checkpoint(tmp_path / "models" / "llama", chunks=3)

    async with NodeHarness.running(tmp_path) as harness:
        texts: list[list[int]] = []
        for replica in ("cold", "warm"):
            await harness.run("llama", replica)
            assert harness.accounts() == (9, 0, 3)
            texts.append(await harness.client.text(f"of-{replica}", replica))
            await harness.end(replica)
            assert harness.accounts() == (9, 3, 0)

        cold = harness.controller.replicas[ReplicaId("cold")].outcome
        warm = harness.controller.replicas[ReplicaId("warm")].outcome
        assert cold is not None
        assert warm is not None
        assert (cold.tier, warm.tier) == (Tier.SSD, Tier.DRAM)
        size_bytes = (tmp_path / "models" / "llama" / "model.safetensors").stat().st_size
        assert (cold.bytes_read, warm.bytes_read) == (size_bytes, 0)
        assert cold.transfer_seconds > 0
        assert warm.transfer_seconds == warm.queue_seconds == 0
        assert cold.prefill_seconds is not None
        assert len(texts[0]) == 8
        assert texts[0] == texts[1]


@pytest.mark.parametrize("tells", [True, False])
async def test_tells_how_busy_the_disk_was_only_where_the_load_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tells: bool
) -> None:
    make_checkpoint(tmp_path / "models" / "llama")
    monkeypatch.setattr(LoadResult, "tells_disk_speed", tells)

    async with NodeHarness.running(tmp_path) as harness:
        await harness.run("llama")

        outcome = harness.controller.replicas[ReplicaId("r1")].outcome
        assert outcome is not None
        assert (outcome.disk_busy_seconds > 0) is tells


async def test_dram_keeps_what_was_used_last(tmp_path: Path) -> None:
    for number, name in enumerate("abc"):
        make_checkpoint(tmp_path / "models" / name, chunks=2, seed=number)

    async with NodeHarness.running(tmp_path) as harness:
        for name in "abc":
            await harness.run(name, name)
            await harness.end(name)

        report = await harness.client.describe()
        in_dram = {each.reference for each in report.checkpoints if each.dram_bytes}
        assert in_dram == {"b", "c"}  # 3 x 2 chunks for 4 places


async def test_dram_keeps_what_saves_most_if_the_settings_say_so(tmp_path: Path) -> None:
    for number, name in enumerate("abc"):
        make_checkpoint(tmp_path / "models" / name, chunks=2, seed=number)

    async with NodeHarness.running(tmp_path, evictor="value") as harness:
        for number, name in enumerate("aabc"):
            await harness.run(name, f"r{number}")
            await harness.end(f"r{number}")

        report = await harness.client.describe()
        in_dram = {each.reference for each in report.checkpoints if each.dram_bytes}
        assert in_dram == {"a", "c"}  # "b" was used once and "a" twice, though before it


async def test_prefetch_pin_and_evict(tmp_path: Path) -> None:
    make_checkpoint(tmp_path / "models" / "llama", chunks=2)

    async with NodeHarness.running(tmp_path) as harness:
        client, controller = harness.client, harness.controller
        assert await client.fetch("llama") is None
        await controller.wait_for(
            lambda: any(c.dram_bytes for update in controller.updates for c in update.checkpoints)
        )
        assert await client.pin("llama") is None
        refusal = await client.evict("llama")
        assert refusal is not None
        assert refusal.code is ErrorCode.PINNED
        assert await client.pin("llama", pinned=False) is None
        assert await client.evict("llama") is None
        assert harness.accounts() == (12, 0, 0)


async def test_one_load_serves_all_starts_of_a_checkpoint(tmp_path: Path) -> None:
    make_checkpoint(tmp_path / "models" / "llama", chunks=4)

    async with NodeHarness.running(tmp_path) as harness:
        answers = await asyncio.gather(
            *(harness.client.start("llama", replica) for replica in ("r1", "r2"))
        )
        assert answers == [None, None]
        for replica in ("r1", "r2"):
            await harness.controller.wait_state(replica, ReplicaState.READY)

        assert harness.accounts() == (8, 0, 4)


async def test_cancelled_start_brings_device_and_chunks_back(tmp_path: Path) -> None:
    make_checkpoint(tmp_path / "models" / "first", chunks=3)
    make_checkpoint(tmp_path / "models" / "second", chunks=4)

    async with NodeHarness.running(tmp_path) as harness:
        # The disk serves the shorter load first, so the other one is not half done.
        assert await harness.client.start("first", "r1") is None
        assert await harness.client.start("second", "r2") is None
        assert await harness.client.cancel_start("r2") is None
        await harness.controller.wait_state("r2", ReplicaState.STOPPED)
        await harness.controller.wait_state("r1", ReplicaState.READY)

        assert harness.accounts() == (9, 0, 3)
        assert await harness.client.start("second", "r3") is None
        await harness.controller.wait_state("r3", ReplicaState.READY)


async def test_killed_worker_fails_its_replica_and_nothing_else(tmp_path: Path) -> None:
    make_checkpoint(tmp_path / "models" / "llama", chunks=2)
    make_checkpoint(tmp_path / "models" / "qwen", chunks=2, seed=1)

    async with NodeHarness.running(tmp_path) as harness:
        await harness.run("llama", "r1", options=NEVER)
        await harness.run("qwen", "r2")
        stream = harness.client.generate("q1", "r1")
        first = await anext(stream)

        os.kill(harness.worker_pid("r1"), signal.SIGKILL)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await anext(stream)
        failed = await harness.controller.wait_state("r1", ReplicaState.FAILED)

        assert len(first.token_ids) == 1
        assert code_of(caught.value) is ErrorCode.WORKER_DIED
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert failed.error_code == ErrorCode.WORKER_DIED
        assert "SIGKILL" in failed.error
        assert harness.accounts() == (8, 2, 2)
        assert len(await harness.client.text("q2", "r2")) == 8


async def test_engine_that_gives_up_says_why(tmp_path: Path) -> None:
    make_checkpoint(tmp_path / "models" / "llama")

    async with NodeHarness.running(tmp_path) as harness:
        assert await harness.client.start("llama", options={"no_such_option": "1"}) is None
        failed = await harness.controller.wait_state("r1", ReplicaState.FAILED)

        assert failed.error_code == "invalid_option"
        assert "no_such_option" in failed.error
        assert harness.node.report().accounts is not None


async def test_damaged_checkpoint_is_quarantined(tmp_path: Path) -> None:
    source = make_checkpoint(tmp_path / "source", chunks=2)
    packed = tmp_path / "models" / "llama"
    packed.parent.mkdir()
    pack(Checkpoint.open(source), packed)
    weights = packed / "model.safetensors"
    with weights.open("r+b") as file:
        file.seek(CHUNK_BYTES + 5)
        byte = file.read(1)
        file.seek(CHUNK_BYTES + 5)
        file.write(bytes([byte[0] ^ 1]))

    async with NodeHarness.running(tmp_path) as harness:
        assert await harness.client.start("llama") is None
        failed = await harness.controller.wait_state("r1", ReplicaState.FAILED)
        refusal = await harness.client.start("llama", "r2")
        [status] = (await harness.client.describe()).checkpoints

        assert failed.error_code == ErrorCode.CHECKSUM_MISMATCH
        assert "model.safetensors: chunk 1" in failed.error
        assert refusal is not None
        assert refusal.code is ErrorCode.QUARANTINED
        assert status.quarantine == failed.error
        assert harness.accounts() == (12, 0, 0)


async def test_follows_the_highest_epoch(tmp_path: Path) -> None:
    make_checkpoint(tmp_path / "models" / "llama")

    async with NodeHarness.running(tmp_path) as harness:
        controller, client = harness.controller, harness.client
        await controller.lead_again(7)
        await controller.wait_for(lambda: controller.acknowledged == [1, 7])
        old = await client.start("llama", header=client.header(epoch=6))
        new = await client.start("llama", header=client.header(epoch=7))

        assert controller.reports[-1].epoch == 7
        assert old is not None
        assert old.code is ErrorCode.STALE_EPOCH
        assert new is None


async def test_command_is_carried_out_once(tmp_path: Path) -> None:
    make_checkpoint(tmp_path / "models" / "llama")

    async with NodeHarness.running(tmp_path) as harness:
        header = harness.client.header(key="same")
        answers = [await harness.client.start("llama", header=header) for _ in range(2)]

        assert answers == [None, None]
        assert len((await harness.client.describe()).replicas) == 1


async def test_refusals_are_statuses_with_details(tmp_path: Path) -> None:
    make_checkpoint(tmp_path / "models" / "llama")

    async with NodeHarness.running(tmp_path) as harness:
        await harness.run("llama", concurrency=1, options=NEVER)
        stream = harness.client.generate("q1")
        await anext(stream)

        with pytest.raises(grpc.aio.AioRpcError) as full:
            await harness.client.text("q2")
        with pytest.raises(grpc.aio.AioRpcError) as unknown:
            await harness.client.text("q3", "r9")
        with pytest.raises(grpc.aio.AioRpcError) as empty:
            await harness.client.text("q4", prompt=())

        assert full.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert code_of(full.value) is ErrorCode.NO_SLOT
        assert unknown.value.code() is grpc.StatusCode.NOT_FOUND
        assert code_of(unknown.value) is ErrorCode.UNKNOWN_REPLICA
        assert empty.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_prompt_longer_than_the_context_is_refused(tmp_path: Path) -> None:
    make_checkpoint(tmp_path / "models" / "llama")

    async with NodeHarness.running(tmp_path) as harness:
        await harness.run("llama")

        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await harness.client.text(prompt=[1] * 600)

        assert code_of(caught.value) is ErrorCode.CONTEXT_EXCEEDED
        assert len(await harness.client.text("q2")) == 8


async def test_request_ends_at_its_deadline(tmp_path: Path) -> None:
    make_checkpoint(tmp_path / "models" / "llama")

    async with NodeHarness.running(tmp_path) as harness:
        await harness.run("llama", concurrency=1, options=NEVER)

        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await harness.client.text(deadline_seconds=0.2)

        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert code_of(caught.value) is ErrorCode.DEADLINE_EXCEEDED
        stream = harness.client.generate("q2")
        assert len((await anext(stream)).token_ids) == 1


async def test_cancel_ends_the_stream_and_bars_the_attempt(tmp_path: Path) -> None:
    make_checkpoint(tmp_path / "models" / "llama")

    async with NodeHarness.running(tmp_path) as harness:
        await harness.run("llama", options=NEVER)
        stream = harness.client.generate("q1")
        await anext(stream)

        assert await harness.client.cancel("q1") is None
        last = await anext(stream)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await harness.client.text("q1")

        assert last.finish_reason is FinishReason.CANCELLED
        assert last.seq == 1
        assert code_of(caught.value) is ErrorCode.STALE_ATTEMPT
        assert await harness.client.cancel("never-heard-of") is None


async def test_client_that_leaves_frees_its_slot(tmp_path: Path) -> None:
    make_checkpoint(tmp_path / "models" / "llama")

    async with NodeHarness.running(tmp_path) as harness:
        await harness.run("llama", concurrency=1, options=NEVER)
        stream = harness.client.generate("q1")
        await anext(stream)

        await stream.aclose()
        await harness.wait_running(0)

        stream = harness.client.generate("q2")
        assert len((await anext(stream)).token_ids) == 1


async def test_resumed_request_goes_on_where_it_was(tmp_path: Path) -> None:
    make_checkpoint(tmp_path / "models" / "llama")

    async with NodeHarness.running(tmp_path) as harness:
        await harness.run("llama")
        whole = await harness.client.text("q1", max_tokens=12)

        rest = await harness.client.text("q2", attempt=2, emitted=whole[:5], max_tokens=12)

        assert whole[:5] + rest == whole


async def test_reader_that_never_reads_loses_its_request_and_holds_up_nobody(
    tmp_path: Path,
) -> None:
    make_checkpoint(tmp_path / "models" / "llama")
    fast = {"prefill_seconds": "0", "decode_seconds": "0", "decode_seconds_per_request": "0"}

    async with NodeHarness.running(tmp_path) as harness, AsyncExitStack() as stack:
        await harness.run("llama", options={**fast, "context_tokens": "10000000"})
        options = (("grpc.http2.lookahead_bytes", 65_536), ("grpc.http2.bdp_probe", 0))
        lazy = NodeClient(harness.node.address, harness.node.incarnation, options=options)
        await stack.enter_async_context(lazy)
        stream = lazy.generate("q1", max_tokens=5_000_000)
        await anext(stream)

        assert len(await harness.client.text("q2")) == 8
        await harness.wait_running(0, seconds=30.0)

        with pytest.raises(grpc.aio.AioRpcError) as caught:
            async for _ in stream:
                pass
        assert code_of(caught.value) is ErrorCode.SLOW_CLIENT


async def test_new_checkpoint_can_be_started_at_once(tmp_path: Path) -> None:
    async with NodeHarness.running(tmp_path) as harness:
        make_checkpoint(tmp_path / "models" / "late")

        assert await harness.client.start("late") is None
        await harness.controller.wait_state("r1", ReplicaState.READY)
        noted = [c.reference for u in harness.controller.updates for c in u.checkpoints]
        assert noted[0] == "late"


async def test_describe_looks_again_when_asked_to(tmp_path: Path) -> None:
    async with NodeHarness.running(tmp_path) as harness:
        make_checkpoint(tmp_path / "models" / "late")

        before = await harness.client.describe()
        after = await harness.client.describe(rescan=True)

        assert [each.reference for each in before.checkpoints] == []
        assert [each.reference for each in after.checkpoints] == ["late"]


async def test_streams_execution_files_only(tmp_path: Path) -> None:
    directory = make_checkpoint(tmp_path / "models" / "llama")
    (directory / "tokenizer.json").write_bytes(b"x" * 600_000)

    async with NodeHarness.running(tmp_path) as harness:
        data = await harness.client.read_file("llama", "tokenizer.json")
        assert data == b"x" * 600_000
        for name in ("model.safetensors", "../llama/config.json", "none"):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await harness.client.read_file("llama", name)
            assert code_of(caught.value) is ErrorCode.UNKNOWN_FILE


@pytest.mark.usefixtures("direct_reads")
async def test_measures_its_disk_after_it_has_registered(tmp_path: Path) -> None:
    make_checkpoint(tmp_path / "models" / "llama", chunks=2)

    async with NodeHarness.running(tmp_path, probe=True) as harness:
        controller = harness.controller
        assert not controller.reports[0].resources.channels[0].measured
        await controller.wait_for(lambda: any(each.channels for each in controller.updates))

        [channel] = next(each.channels for each in controller.updates if each.channels)
        assert channel.measured
        assert channel.channel_id == controller.reports[0].checkpoints[0].ssd_channel
        assert (await harness.client.describe()).resources.channels == (channel,)


@pytest.mark.usefixtures("direct_reads")
async def test_measures_a_disk_whose_first_checkpoint_comes_later(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"probe": True, "rescan_seconds": 0.1}

    async with NodeHarness.running(tmp_path, **settings) as harness:
        controller = harness.controller
        make_checkpoint(tmp_path / "models" / "llama", chunks=2)
        await controller.wait_for(
            lambda: any(each.measured for update in controller.updates for each in update.channels)
        )

        [channel] = (await harness.client.describe()).resources.channels
        assert channel.measured


async def test_health_and_reflection_tell_what_is_served(tmp_path: Path) -> None:
    async with NodeHarness.running(tmp_path) as harness:
        async with grpc.aio.insecure_channel(harness.node.address) as channel:
            connection: Any = channel  # these stubs come without types
            health: Any = health_pb2_grpc.HealthStub(connection)
            request = health_pb2.HealthCheckRequest(service="pilotlight.store_node.v1.StoreNode")
            answer = await health.Check(request)
            reflection: Any = reflection_pb2_grpc.ServerReflectionStub(connection)
            asking = reflection_pb2.ServerReflectionRequest(list_services="")
            [listed] = [each async for each in reflection.ServerReflectionInfo(iter([asking]))]

        assert answer.status == health_pb2.HealthCheckResponse.SERVING
        names = [service.name for service in listed.list_services_response.service]
        assert "pilotlight.store_node.v1.StoreNode" in names


async def test_replicas_go_on_without_a_controller_and_are_reported_when_it_is_back(
    tmp_path: Path,
) -> None:
    make_checkpoint(tmp_path / "models" / "llama")

    async with NodeHarness.running(tmp_path) as harness:
        controller = harness.controller
        await harness.run("llama")
        await controller.stop()
        assert len(await harness.client.text("q1")) == 8
        assert await harness.client.stop() is None
        controller.reports.clear()
        await controller.start(controller.address)
        await controller.wait_for(lambda: bool(controller.reports))

        status = await controller.wait_state("r1", ReplicaState.STOPPED)
        assert status.outcome is not None


async def test_defect_ends_the_node_instead_of_hiding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_checkpoint(tmp_path / "models" / "llama")

    def break_down(*_: object) -> None:
        raise ZeroDivisionError

    async def run_into_it() -> None:
        async with NodeHarness.running(tmp_path) as harness:
            monkeypatch.setattr("pilotlight.store_node.shell.arena.Arena.allocate", break_down)
            with pytest.raises(grpc.aio.AioRpcError):
                await harness.client.start("llama")
            await asyncio.wait([harness.node.failed], timeout=5.0)

    with pytest.raises(ZeroDivisionError):
        await run_into_it()


async def test_defect_in_a_callback_ends_the_node_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    make_checkpoint(tmp_path / "models" / "llama")

    def break_down(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    async def run_into_it() -> None:
        async with NodeHarness.running(tmp_path) as harness:
            await harness.run("llama")
            monkeypatch.setattr("pilotlight.store_node.workers.worker.Worker.exited", break_down)
            worker = harness.node.worker_pid(ReplicaId("r1"))
            assert worker is not None
            os.kill(worker, signal.SIGKILL)
            await asyncio.wait([harness.node.failed], timeout=5.0)
            monkeypatch.undo()

    with pytest.raises(ZeroDivisionError):
        await run_into_it()
    assert "Exception in callback" in caplog.text


async def test_node_that_stops_ends_its_streams_and_says_so(tmp_path: Path) -> None:
    make_checkpoint(tmp_path / "models" / "llama")

    async with AsyncExitStack() as stack:
        async with NodeHarness.running(tmp_path) as harness:
            client = NodeClient(harness.node.address, harness.node.incarnation)
            await stack.enter_async_context(client)
            await harness.run("llama", options=NEVER)
            stream = client.generate("q1")
            await anext(stream)
            reading = asyncio.ensure_future(anext(stream))

        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await reading
        assert code_of(caught.value) is ErrorCode.NODE_STOPPING
        assert harness.controller.replicas[ReplicaId("r1")].state is ReplicaState.STOPPED
