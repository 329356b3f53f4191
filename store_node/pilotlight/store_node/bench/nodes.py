"""A store node in a process of its own; this process is its controller and its router."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import sys
import time
from asyncio.subprocess import DEVNULL, Process
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from pilotlight.native_loader import CHUNK_BYTES, Checkpoint
from pilotlight.process.bench.children import child_environ
from pilotlight.process.bench.errors import BenchFailed
from pilotlight.process.log_tail import log_tail
from pilotlight.store_node.bench.registry import EPOCH, Registry
from pilotlight.store_node.protocol import (
    CommandHeader,
    EvictCheckpointRequest,
    GenerateRequest,
    ModelId,
    Reference,
    ReplicaId,
    ReplicaSpec,
    ReplicaState,
    ReplicaStatus,
    RequestId,
    Sampling,
    StartReplicaRequest,
    StopReplicaRequest,
    TokenBatch,
    store_node_pb2,
    store_node_pb2_grpc,
    wire,
)
from pilotlight.store_node.protocol.channels import open_channel
from pilotlight.store_node.protocol.statuses import refusal_of
from pilotlight.store_node.settings import KIND

ENGINE = "transformers"

_STEP_SECONDS = 120.0
_STOP_SECONDS = 15.0
_LOSS_SECONDS = 2.0
# Longer than any bench: nothing but starts is to happen on the node.
_NEVER_SECONDS = 86_400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class NodePlan:
    """What a node is to be."""

    name: str
    checkpoints: Mapping[str, Checkpoint]
    """By the references that they are started by."""
    warm_workers: int
    threads: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FirstToken:
    """A replica's start and its first request, by the clock of who asked for them."""

    ready_seconds: float
    """Until the node said that it is READY."""
    total_seconds: float
    """Until the first token was here."""
    token_id: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Teardown:
    """A replica's end, by the clock of who asked for it."""

    seconds: float
    status: ReplicaStatus
    """The node's last word on it."""


class BenchNode:
    """Commands one node, and waits for what it says without polling."""

    def __init__(self, registry: Registry, stub: store_node_pb2_grpc.StoreNodeAsyncStub) -> None:
        self._registry = registry
        self._stub = stub
        self._keys = itertools.count(1)

    @classmethod
    @asynccontextmanager
    async def running(cls, plan: NodePlan, folder: Path) -> AsyncGenerator[BenchNode]:
        """Run a node with its home in a folder; leaving the block stops it."""
        async with AsyncExitStack() as stack:
            registry = Registry()
            controller = await registry.start()
            stack.push_async_callback(registry.stop)
            process, log = await _spawn(plan, folder, controller)
            stack.push_async_callback(_stop, process)
            watch = asyncio.ensure_future(_watch(process, registry, log))
            stack.callback(watch.cancel)
            await registry.wait_for(
                "it runs", lambda: bool(registry.address), seconds=_STEP_SECONDS
            )
            channel = open_channel(registry.address)
            stack.push_async_callback(channel.close)
            yield cls(registry, store_node_pb2_grpc.StoreNodeStub(channel))

    async def wait_warm(self) -> None:
        """Wait until a worker is warm."""
        registry = self._registry
        await registry.wait_for(
            "a worker is warm",
            lambda: registry.warm_workers.get(ENGINE, 0) > 0,
            seconds=_STEP_SECONDS,
        )

    async def evict(self, reference: str) -> None:
        """Drop a checkpoint from DRAM, and wait until it is gone."""
        registry, name = self._registry, Reference(reference)
        if registry.checkpoints[name].dram_bytes == 0:
            return
        await self._send(EvictCheckpointRequest(header=self._header(), reference=name))
        await registry.wait_for(
            f"{reference} has left DRAM",
            lambda: registry.checkpoints[name].dram_bytes == 0,
            seconds=_STEP_SECONDS,
        )

    async def start(
        self, reference: str, prompt_ids: Sequence[int]
    ) -> tuple[ReplicaId, FirstToken]:
        """Start a replica, and ask it for one token as soon as it is READY."""
        spec = ReplicaSpec(
            replica_id=ReplicaId(f"bench-{next(self._keys)}"),
            model=ModelId(reference),
            reference=Reference(reference),
            engine=ENGINE,
        )
        request = self._request(spec.replica_id, prompt_ids)
        began = time.monotonic()
        await self._send(StartReplicaRequest(header=self._header(), spec=spec))
        await self._wait_state(spec.replica_id, ReplicaState.READY)
        ready_at = time.monotonic()
        batch = await self._generate(request)
        return spec.replica_id, FirstToken(
            ready_seconds=ready_at - began,
            total_seconds=time.monotonic() - began,
            token_id=batch.token_ids[0],
        )

    async def stop(self, replica_id: ReplicaId) -> Teardown:
        """Stop a replica, and wait until its devices are free."""
        began = time.monotonic()
        await self._send(StopReplicaRequest(header=self._header(), replica_id=replica_id))
        status = await self._wait_state(replica_id, ReplicaState.STOPPED)
        return Teardown(seconds=time.monotonic() - began, status=status)

    def _header(self) -> CommandHeader:
        return CommandHeader(
            epoch=EPOCH,
            incarnation=self._registry.incarnation,
            idempotency_key=f"bench-{next(self._keys)}",
        )

    def _request(self, replica_id: ReplicaId, prompt_ids: Sequence[int]) -> GenerateRequest:
        return GenerateRequest(
            request_id=RequestId(f"first-of-{replica_id}"),
            attempt=1,
            epoch=EPOCH,
            incarnation=self._registry.incarnation,
            idempotency_key=f"first-of-{replica_id}",
            deadline_seconds=_STEP_SECONDS,
            replica_id=replica_id,
            prompt_ids=tuple(prompt_ids),
            sampling=Sampling(temperature=0.0, max_tokens=1),
        )

    async def _wait_state(self, replica_id: ReplicaId, state: ReplicaState) -> ReplicaStatus:
        registry = self._registry
        ends = (state, ReplicaState.FAILED, ReplicaState.STOPPED)

        def is_there() -> bool:
            status = registry.replicas.get(replica_id)
            return status is not None and status.state in ends

        await registry.wait_for(f"{replica_id} is {state}", is_there, seconds=_STEP_SECONDS)
        status = registry.replicas[replica_id]
        if status.state is not state:
            raise BenchFailed(f"{status.model} ended as {status.state}: {status.error}")
        return status

    async def _send(self, command: Any) -> None:
        name = type(command).__name__
        call = getattr(self._stub, name.removesuffix("Request"))
        message = wire.to_message(command, getattr(store_node_pb2, name))
        try:
            await call(message, timeout=_STEP_SECONDS)
        except grpc.aio.AioRpcError as exc:
            raise await self._failure(exc) from exc

    async def _generate(self, request: GenerateRequest) -> TokenBatch:
        call = self._stub.Generate(wire.to_message(request, store_node_pb2.GenerateRequest))
        try:
            async for message in call:
                batch = wire.from_message(message, TokenBatch)
                if batch.token_ids:
                    return batch
        except grpc.aio.AioRpcError as exc:
            raise await self._failure(exc) from exc
        raise BenchFailed("a request ended without a token")

    async def _failure(self, error: grpc.aio.AioRpcError) -> BenchFailed:
        refusal = refusal_of(error)
        if refusal is not None:
            return BenchFailed(f"the node refused: {refusal.message}")
        # A connection breaks before the process that had it is known to have ended.
        is_cut = error.code() is grpc.StatusCode.UNAVAILABLE
        lost = await self._registry.loss(seconds=_LOSS_SECONDS) if is_cut else ""
        return BenchFailed(lost or f"a call to the node failed: {error.details()}")


async def _spawn(plan: NodePlan, folder: Path, controller: str) -> tuple[Process, Path]:
    home = folder / plan.name
    home.mkdir(parents=True)
    settings = home / "node.yaml"
    settings.write_text(json.dumps(_settings(plan, home, controller), default=str))
    log = home / "log"
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", "pilotlight.store_node"),
            *(f"--config={settings}", f"--exit-with-parent={os.getpid()}"),
            env=child_environ(plan.threads),
            stdin=DEVNULL,
            stdout=output,
            stderr=output,
            # Ctrl-C is for the bench, which stops its nodes.
            start_new_session=True,
        )
    return process, log


def _settings(plan: NodePlan, home: Path, controller: str) -> dict[str, Any]:
    """Return a node's settings as its file has them, in JSON, which is YAML too."""
    models = home / "models"
    models.mkdir()
    roots = [models]
    for reference, checkpoint in plan.checkpoints.items():
        (models / reference).symlink_to(checkpoint.path.resolve())
        # A node follows no link that leads out of its roots, and snapshots consist of links.
        roots += [checkpoint.path.resolve()]
        roots += [file.path.resolve().parent for file in checkpoint.files]
    largest_bytes = max(each.n_chunks for each in plan.checkpoints.values()) * CHUNK_BYTES
    return {
        "apiVersion": "pilotlight/v1",
        "kind": KIND,
        "name": plan.name,
        "home": home,
        "controller": controller,
        "models": list(dict.fromkeys(roots)),
        "devices": 1,
        "device_bytes": largest_bytes,
        "dram_bytes": largest_bytes,
        "engines": [ENGINE],
        "warm_workers": plan.warm_workers,
        "threads": plan.threads,
        "rescan_seconds": _NEVER_SECONDS,
        "probe": False,
        "log": {"format": "console", "level": "warning"},
    }


async def _watch(process: Process, registry: Registry, log: Path) -> None:
    code = await process.wait()
    last = log_tail(log).splitlines()[-1:] or ["it said nothing"]
    registry.lose(f"a node has ended with exit code {code}: {last[0].strip()}")


async def _stop(process: Process) -> None:
    """Stop a node as Ctrl-C does; one that does not end is killed, and its workers with it."""
    try:
        process.terminate()
        async with asyncio.timeout(_STOP_SECONDS):
            await process.wait()
    except ProcessLookupError:
        await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()
